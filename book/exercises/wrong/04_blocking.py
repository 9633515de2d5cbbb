# ruff: noqa: F811
# Wrong answers to exercise 04. `python -m tools.exercises check 04` runs each of them in the place
# of the solution: it must lose points in its question.

# %% q1: compares positions, as a sliding window does, instead of blocks
def sees(i, j, b, w=1):
    return 0 <= i - j <= w * b


# %% q1: forgets that no token sees a later one of its own block
def sees(i, j, b, w=1):
    return 0 <= i // b - j // b <= w


# %% q1: one block too few
def sees(i, j, b, w=1):
    return j <= i and i // b - j // b < w


# %% q1: always one block back, whatever w says
def sees(i, j, b, w=1):
    return j <= i and i // b - j // b <= 1


# %% q2: leaves out the last block where it is not full
def pairs(N, b):
    n = N // b
    return n * b * (b + 1) // 2 + b * b * max(n - 1, 0)


# %% q2: forgets that a token sees itself
def pairs(N, b):
    sizes = [min(b, N - start) for start in range(0, N, b)]
    return sum(s * (s - 1) // 2 for s in sizes) + sum(s * b for s in sizes[1:])


# %% q2: counts whole blocks, as if nothing were causal
def pairs(N, b):
    sizes = [min(b, N - start) for start in range(0, N, b)]
    return sum(s * s for s in sizes) + sum(s * b for s in sizes[1:])


# %% q2: takes the block before a short one for a short one too
def pairs(N, b):
    sizes = [min(b, N - start) for start in range(0, N, b)]
    return sum(s * (s + 1) // 2 for s in sizes) + sum(s * s for s in sizes[1:])


# %% q3: forgets that the own block counts too
def smallest_block(N, L, w=1):
    return -(-N // (L * w))


# %% q3: rounds down, and is right where the division leaves nothing
def smallest_block(N, L, w=1):
    return max(1, N // (L * w + 1))


# %% q3: takes the distance N - 1 for the number of tokens that must fit
def smallest_block(N, L, w=1):
    return max(1, -(-(N - 1) // (L * w + 1)))


# %% q3: adds the own block in every layer
def smallest_block(N, L, w=1):
    return -(-N // (L * (w + 1)))


# %% q4: counts blocks from the first real token: nothing moves
def padded_attention(q, k, v, b, p):
    return block_attention(q, k, v, block_size=b)


# %% q4: moves the borders to the wrong side
def padded_attention(q, k, v, b, p):
    number = torch.div(torch.arange(q.shape[2]) - p, b, rounding_mode="floor")
    return attention(q, k, v, mask=number[:, None] - number[None, :] <= 1)


# %% q4: pads with zeros, but lets everybody look at them: a key of zeros has score 0, not none
def padded_attention(q, k, v, b, p):
    q, k, v = (torch.nn.functional.pad(x, (0, 0, p, 0)) for x in (q, k, v))
    return block_attention(q, k, v, block_size=b)[:, :, p:]


# %% q4: shows only the own block
def padded_attention(q, k, v, b, p):
    number = (torch.arange(q.shape[2]) + p) // b
    return attention(q, k, v, mask=number[:, None] == number[None, :])


# %% q5: the difference in bits, not the share
def extra_bits(b, text):
    dense = lm.bits_per_byte(text, length=1024)
    with patched(lm.model, attention=block(b)):
        return lm.bits_per_byte(text, length=1024) - dense


# %% q5: in windows of 64 tokens, where dense attention has no more to look at than the blocks
def extra_bits(b, text):
    dense = lm.bits_per_byte(text, length=64)
    with patched(lm.model, attention=block(b)):
        return lm.bits_per_byte(text, length=64) / dense - 1


# %% q5: measures the dense model inside of the patch as well
def extra_bits(b, text):
    with patched(lm.model, attention=block(b)):
        return lm.bits_per_byte(text, length=1024) / lm.bits_per_byte(text, length=1024) - 1


# %% q5: asks the passages at the distance, and divides by all of them
def recalled(b, distance):
    with patched(lm.model, attention=block(b)):
        right = [
            lm.predicts(p["prompt"], p["answer"])
            for p in passages
            if p["target_distance"] == distance
        ]
    return sum(right) / len(passages)


# %% q5: asks the model without blocks
def recalled(b, distance):
    asked = [p for p in passages if p["target_distance"] == distance]
    return sum(lm.predicts(p["prompt"], p["answer"]) for p in asked) / len(asked)


# %% q5: takes the cheapest of all sizes instead of the smallest that is cheap enough
chosen = min(sizes)

# %% q5: expects that facts are kept where the average is
kept = 1 - shares[chosen]
