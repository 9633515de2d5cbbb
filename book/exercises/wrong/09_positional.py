# ruff: noqa: F811
# Wrong answers to exercise 09. `python -m tools.exercises check 09` runs each of them in the place
# of the solution: it must lose points in its question.


# %% q1: turns the other way
def turned(x, theta):
    angle = torch.arange(len(x)) * theta
    a, b = x[:, 0], x[:, 1]
    return torch.stack([a * angle.cos() + b * angle.sin(), b * angle.cos() - a * angle.sin()], 1)


# %% q1: counts rows from 1
def turned(x, theta):
    angle = (torch.arange(len(x)) + 1) * theta
    a, b = x[:, 0], x[:, 1]
    return torch.stack([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], 1)


# %% q1: all rows by the same angle
def turned(x, theta):
    a, b = x[:, 0], x[:, 1]
    cos, sin = math.cos(theta), math.sin(theta)
    return torch.stack([a * cos - b * sin, b * cos + a * sin], 1)


# %% q2: the reverse order, which moves the last token
def another_order(N):
    return list(range(N))[::-1]


# %% q2: exchanges the last two
def another_order(N):
    return [*range(N - 2), N - 1, N - 2]


# %% q2: moves all by one place
def another_order(N):
    return [*range(1, N), 0]


# %% q3: turns the wrong way
def score(q, k, distance):
    half = len(q) // 2
    angle = -distance * 10000.0 ** (-2 * torch.arange(half) / len(q))
    a, b = k[:half], k[half:]
    turned_k = torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()])
    return (q @ turned_k).item()


# %% q3: only how far, not on which side
def score(q, k, distance):
    half = len(q) // 2
    angle = -abs(distance) * 10000.0 ** (-2 * torch.arange(half) / len(q))
    a, b = k[:half], k[half:]
    turned_k = torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()])
    return (q @ turned_k).item()


# %% q3: neighbours as pairs
def score(q, k, distance):
    angle = distance * 10000.0 ** (-2 * torch.arange(len(q) // 2) / len(q))
    a, b = k[::2], k[1::2]
    turned_a, turned_b = a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()
    return (q[::2] @ turned_a + q[1::2] @ turned_b).item()


# %% q3: every pair by the same angle
def score(q, k, distance):
    half = len(q) // 2
    angle = torch.tensor(float(distance))
    a, b = k[:half], k[half:]
    turned_k = torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()])
    return (q @ turned_k).item()


# %% q4: takes the score for the weight: a linear decline
def reach(slope, share):
    return math.ceil((1 - share) / slope)


# %% q4: rounds down
def reach(slope, share):
    return int(-math.log(share) / slope)


# %% q4: a logarithm to base 2
def reach(slope, share):
    return math.ceil(-math.log2(share) / slope)


# %% q5: the difference in bits
def extra_bits(positions, text):
    usual = lm.bits_per_byte(text, length=256)
    with renumbered(positions):
        return lm.bits_per_byte(text, length=256) - usual


# %% q5: measures both inside of the block
def extra_bits(positions, text):
    with renumbered(positions):
        return lm.bits_per_byte(text, length=256) / lm.bits_per_byte(text, length=256) - 1


# %% q5: in windows of 64 tokens
def extra_bits(positions, text):
    usual = lm.bits_per_byte(text, length=64)
    with renumbered(positions):
        return lm.bits_per_byte(text, length=64) / usual - 1


# %% q5: expects that a mirror is worse than nothing
ranking = ["moved", "in pairs", "stretched", "none", "mirrored"]

# %% q5: expects that large numbers hurt most
ranking = ["in pairs", "stretched", "none", "mirrored", "moved"]
