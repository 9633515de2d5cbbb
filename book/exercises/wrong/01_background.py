# ruff: noqa: F811
# Wrong answers to exercise 01. `python -m tools.exercises check 01` runs each of them in the place
# of the solution: it must lose points in its question.

# %% q1: forgets that a token looks at itself
def looks(N, cached=0):
    return N * cached + N * (N - 1) // 2


# %% q1: a square instead of a triangle
def looks(N, cached=0):
    return N * (cached + N)


# %% q1: counts the cached tokens once, not once for each new one
def looks(N, cached=0):
    return cached + N * (N + 1) // 2


# %% q1: all pairs of the whole text, though the cached tokens have looked already
def looks(N, cached=0):
    return (N + cached) * (N + cached + 1) // 2


# %% q2: keys only
def tokens_that_fit(free, L, h_kv, d_k, s=2):
    return free // (L * h_kv * d_k * s)


# %% q2: one layer
def tokens_that_fit(free, L, h_kv, d_k, s=2):
    return free // (2 * h_kv * d_k * s)


# %% q2: rounds, so that the last token may not fit
def tokens_that_fit(free, L, h_kv, d_k, s=2):
    return round(free / (2 * L * h_kv * d_k * s))


# %% q2: counts numbers instead of bytes
def tokens_that_fit(free, L, h_kv, d_k, s=2):
    return free // (2 * L * h_kv * d_k)


# %% q3: also counts looks ahead, which are masked
def operations(N, L, d, d_ff, n_v):
    return L * (8 * N * d**2 + 4 * d * N**2 + 4 * N * d * d_ff) + 2 * N * d * n_v


# %% q3: a multiplication and an addition as one
def operations(N, L, d, d_ff, n_v):
    return (L * (8 * N * d**2 + 2 * d * N * (N + 1) + 4 * N * d * d_ff) + 2 * N * d * n_v) // 2


# %% q3: logits in every layer
def operations(N, L, d, d_ff, n_v):
    layer = 8 * N * d**2 + 2 * d * N * (N + 1) + 4 * N * d * d_ff
    return L * (layer + 2 * N * d * n_v)


# %% q3: divides the budget by the cost of one token, as if a text cost its length
def longest(budget, L, d, d_ff, n_v):
    return budget // operations(1, L, d, d_ff, n_v)


# %% q3: one too many: the first length that does not fit
def longest(budget, L, d, d_ff, n_v):
    low, high = 0, 1
    while operations(high, L, d, d_ff, n_v) <= budget:
        high *= 2
    while high - low > 1:
        middle = (low + high) // 2
        fits = operations(middle, L, d, d_ff, n_v) <= budget
        low, high = (middle, high) if fits else (low, middle)
    return high


# %% q4: reads the last token too
def waste(N, T):
    return sum(N + t for t in range(1, T + 1)) / (N + T)


# %% q4: forgets that the text grows
def waste(N, T):
    return T * N / (N + T - 1)


# %% q4: with a cache, forgets the prompt
def waste(N, T):
    return sum(N + t for t in range(T)) / T


# %% q5: four bytes for the weights, two for the cache
def cache_share(name, tokens):
    counted = cost(shapes[name], tokens, dtype=torch.bfloat16)
    return counted.kv_cache_bytes / (4 * counted.parameters)


# %% q5: compares bytes with a number of parameters
def cache_share(name, tokens):
    counted = cost(shapes[name], tokens, dtype=torch.bfloat16)
    return counted.kv_cache_bytes / counted.parameters


# %% q5: the cache as a share of weights and cache together
def cache_share(name, tokens):
    counted = cost(shapes[name], tokens, dtype=torch.bfloat16)
    return counted.kv_cache_bytes / (2 * counted.parameters + counted.kv_cache_bytes)


# %% q5: the larger model first
surprise = pairs[0][::-1]

# %% q5: the smallest and the largest model: the larger one has the larger cache
surprise = ("pythia-70m", "Llama-3.1-70B")
