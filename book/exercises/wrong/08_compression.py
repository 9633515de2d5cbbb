# ruff: noqa: F811
# Wrong answers to exercise 08. `python -m tools.exercises check 08` runs each of them in the place
# of the solution: it must lose points in its question.

# %% q1: as many numbers, not fewer
def largest_rank(m, n):
    return m * n // (m + n)


# %% q1: half of the ranks, which is right for square matrices alone
def largest_rank(m, n):
    return (min(m, n) - 1) // 2


# %% q1: the break-even rank, which is no whole number
def largest_rank(m, n):
    return m * n / (m + n)


# %% q2: forgets the singular values
def thin(W, r):
    U, _, Vt = torch.linalg.svd(W, full_matrices=False)
    return U[:, :r], Vt[:r]


# %% q2: has them in both matrices
def thin(W, r):
    U, values, Vt = torch.linalg.svd(W, full_matrices=False)
    return U[:, :r] * values[:r], values[:r, None] * Vt[:r]


# %% q2: keeps the smallest
def thin(W, r):
    U, values, Vt = torch.linalg.svd(W, full_matrices=False)
    return U[:, -r:] * values[-r:], Vt[-r:]


# %% q2: the first r columns and rows of W itself
def thin(W, r):
    return W[:, :r], torch.eye(r, W.shape[1])


# %% q3: inputs in the channel that is kept
X = torch.tensor([[1.0, 0.0], [2.0, 0.1], [-1.0, 0.0], [3.0, 0.0]])

# %% q3: the same in both channels: less than half is lost
X = torch.ones(4, 2)

# %% q3: more in the second channel, but not enough
X = torch.tensor([[1.0, 3.0], [1.0, -3.0], [1.0, 3.0], [1.0, -3.0]])


# %% q4: weighs by the student
def distillation(teacher, student):
    log_p, log_q = teacher.log_softmax(-1), student.log_softmax(-1)
    return (log_q.exp() * (log_q - log_p)).sum(-1).mean()


# %% q4: the mean over the words too
def distillation(teacher, student):
    log_p, log_q = teacher.log_softmax(-1), student.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).mean()


# %% q4: the logarithm of the softmax, which is minus infinity where a probability is rounded to 0
def distillation(teacher, student):
    p, q = teacher.softmax(-1), student.softmax(-1)
    return (p * (p.log() - q.log())).sum(-1).mean()


# %% q4: the cross-entropy, which is not 0 where the two agree
def distillation(teacher, student):
    return -(teacher.softmax(-1) * student.log_softmax(-1)).sum(-1).mean()


# %% q5: keeps the one layer, and leaves the others out
def without_layer(index, text):
    return extra(keep_layers(lm.model, [index]), text)


# %% q5: the difference in bits
def without_layer(index, text):
    kept = [i for i in range(4) if i != index]
    small = LanguageModel("small", keep_layers(lm.model, kept), lm.tokenizer)
    return small.bits_per_byte(text, length=512) - lm.bits_per_byte(text, length=512)


# %% q5: chooses the neurons by their weights alone
def with_neurons(keep, text):
    return extra(prune_neurons(lm.model, keep), text)


# %% q5: the number of neurons to remove
def with_neurons(keep, text):
    return extra(prune_neurons(lm.model, 1025 - keep, statistics=statistics), text)


# %% q5: the last layer, as the one that is farthest from the words
spare = 3

# %% q5: the ratio the wrong way round
ratio = with_neurons(640, page) / min(costs)

# %% q5: half of the neurons instead of 640
ratio = min(costs) / with_neurons(512, page)
