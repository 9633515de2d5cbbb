# ruff: noqa: F811
# Wrong answers to exercise 06. `python -m tools.exercises check 06` runs each of them in the place
# of the solution: it must lose points in its question.

# %% q1: a multiplication and an addition as one
def intensity(tokens, d_in, d_out, s=4):
    return tokens * d_in * d_out / (s * (d_in * d_out + tokens * d_in + tokens * d_out))


# %% q1: weights alone move
def intensity(tokens, d_in, d_out, s=4):
    return 2 * tokens * d_in * d_out / (s * d_in * d_out)


# %% q1: forgets the outputs
def intensity(tokens, d_in, d_out, s=4):
    return 2 * tokens * d_in * d_out / (s * (d_in * d_out + tokens * d_in))


# %% q1: always four bytes
def intensity(tokens, d_in, d_out, s=4):
    return 2 * tokens * d_in * d_out / (4 * (d_in * d_out + tokens * d_in + tokens * d_out))


# %% q2: the approximation for few tokens, t = ridge · s / 2
def smallest_batch(d, ridge, s=4):
    return math.ceil(ridge * s / 2)


# %% q2: no batch too narrow: a negative number comes out
def smallest_batch(d, ridge, s=4):
    return math.ceil(ridge * s * d / (2 * d - 2 * ridge * s))


# %% q2: rounds to the nearest, which may be one too few
def smallest_batch(d, ridge, s=4):
    per_token = 2 * d - 2 * ridge * s
    return None if per_token <= 0 else max(1, round(ridge * s * d / per_token))


# %% q3: adds the halves, as if both had the same maximum
def merge(m1, l1, o1, m2, l2, o2):
    return torch.maximum(m1, m2), l1 + l2, o1 + o2


# %% q3: rescales the first half only, as if the second always had the larger maximum
def merge(m1, l1, o1, m2, l2, o2):
    shrink = torch.exp(m1 - m2)
    return m2, shrink * l1 + l2, shrink * o1 + o2


# %% q3: goes back to plain exponentials, which overflow
def merge(m1, l1, o1, m2, l2, o2):
    m = torch.maximum(m1, m2)
    total = l1 * m1.exp() + l2 * m2.exp()
    return m, total / m.exp(), (o1 * m1.exp() + o2 * m2.exp()) / m.exp()


# %% q3: averages the two outputs, each divided by its own sum
def merge(m1, l1, o1, m2, l2, o2):
    m = torch.maximum(m1, m2)
    total = l1 * torch.exp(m1 - m) + l2 * torch.exp(m2 - m)
    return m, total, total * (o1 / l1 + o2 / l2) / 2


# %% q4: rising scores, where the mistake shows most
lucky = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])

# %% q4: the largest score in the second tile
lucky = torch.tensor([1.0, 2.0, 9.0, 3.0, 4.0, 5.0])

# %% q4: rising, but so slowly that no weight is far off
unlucky = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])


# %% q5: forgets that each conversation has a cache of its own
def tokens_a_second(bits, batch):
    moved = parameters * bits / 8 + cache
    return 0 if moved > 0.9 * card.memory else batch * card.bandwidth / moved


# %% q5: the speed of one conversation, not of all together
def tokens_a_second(bits, batch):
    moved = parameters * bits / 8 + batch * cache
    return 0 if moved > 0.9 * card.memory else card.bandwidth / moved


# %% q5: reads the weights again for every conversation
def tokens_a_second(bits, batch):
    size = parameters * bits / 8 + batch * cache
    if size > 0.9 * card.memory:
        return 0
    return batch * card.bandwidth / (batch * (parameters * bits / 8 + cache))


# %% q5: uses all of the memory
def tokens_a_second(bits, batch):
    moved = parameters * bits / 8 + batch * cache
    return 0 if moved > card.memory else batch * card.bandwidth / moved


# %% q5: few bits, and one fast answer
best = (4, 1)

# %% q5: shares the weights, and keeps 16 bits
best = max([(16, batch) for batch in range(1, 33)], key=lambda choice: tokens_a_second(*choice))
