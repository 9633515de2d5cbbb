"""Grading a class: submissions in, grades and feedback out. ``tools/grade.py`` is the command.

A submission is never run in the process that scores it. A *judge* (trusted) holds the tests; a
*worker* (sandboxed) runs the student's cells and answers calls. Only data passes between them.
"""
