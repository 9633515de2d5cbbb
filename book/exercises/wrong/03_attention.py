# ruff: noqa: F811
# Wrong answers to exercise 03. `python -m tools.exercises check 03` runs each of them in the place
# of the solution: it must lose points in its question.

# %% q1: the scale is forgotten, and the order of the scores is right all the same
def scores(q, k):
    return q @ k.T


# %% q1: divides by the width instead of by its root
def scores(q, k):
    return q @ k.T / q.shape[1]


# %% q1: keys in the rows, which no square example shows
def scores(q, k):
    return k @ q.T / math.sqrt(q.shape[1])


# %% q1: takes the root of the number of tokens, the first number in the shape
def scores(q, k):
    return q @ k.T / math.sqrt(k.shape[0])


# %% q2: the triangle starts in the upper left corner, right only for as many queries as keys
def causal_weights(q, k):
    future = torch.ones(len(q), len(k), dtype=torch.bool).triu(diagonal=1)
    return (q @ k.T / math.sqrt(q.shape[1])).masked_fill(future, -math.inf).softmax(1)


# %% q2: masks after the softmax, so that the rows lose what they gave to the future
def causal_weights(q, k):
    A = (q @ k.T / math.sqrt(q.shape[1])).softmax(1)
    return A.tril(diagonal=len(k) - len(q))


# %% q2: the exponential by hand, which overflows where scores are large
def causal_weights(q, k):
    visible = torch.ones(len(q), len(k)).tril(diagonal=len(k) - len(q))
    e = (q @ k.T / math.sqrt(q.shape[1])).exp() * visible
    return e / e.sum(1, keepdim=True)


# %% q2: masks scores with zero instead of minus infinity, and exp(0) is 1
def causal_weights(q, k):
    e = (q @ k.T / math.sqrt(q.shape[1])).tril(diagonal=len(k) - len(q))
    return e.softmax(1)


# %% q3: doubles the keys, as if softmax ignored a common factor
def other_keys(k):
    return 2 * k + 0.5


# %% q3: exchanges the keys, as if their order did not matter to the weights
def other_keys(k):
    return k.flip(0)


# %% q3: adds another number to each key, which is not common to a row
def other_keys(k):
    return k + torch.arange(1.0, len(k) + 1)[:, None]


# %% q4: brings all keys to one length, which changes the products
def lift(q, k):
    longest = k.norm(dim=1).max()
    equal = torch.nn.functional.normalize(k, dim=1) * longest
    return torch.nn.functional.pad(q, (0, 1)), torch.nn.functional.pad(equal, (0, 1))


# %% q4: fills up the length instead of the squared length
def lift(q, k):
    length = k.norm(dim=1, keepdim=True)
    return torch.nn.functional.pad(q, (0, 1)), torch.cat([k, length.max() - length], 1)


# %% q4: gives the queries a one in the new column, and so adds it to the products
def lift(q, k):
    squared = k.square().sum(1, keepdim=True)
    missing = (squared.max() - squared).sqrt()
    return torch.nn.functional.pad(q, (0, 1), value=1.0), torch.cat([k, missing], 1)


# %% q5: the main diagonal: the weight that a token gives to itself
def previous_weight(text):
    return lm.attention_maps(text).diagonal(dim1=2, dim2=3)[..., 1:].mean(-1)


# %% q5: divides by all tokens, though the first has none before it
def previous_weight(text):
    maps = lm.attention_maps(text)
    return maps.diagonal(offset=-1, dim1=2, dim2=3).sum(-1) / maps.shape[-1]


# %% q5: silences rows of the mixing matrix, which are outputs of the layer, instead of columns
def bits_without(layer, head, text):
    weight = lm.model.gpt_neox.layers[layer].attention.dense.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[64 * head : 64 * (head + 1)] = 0
    bits = lm.bits_per_byte(text, length=256)
    with torch.no_grad():
        weight.copy_(kept)
    return bits


# %% q5: never puts the weights back
spoiled = effedu.load_lm()


def bits_without(layer, head, text):
    weight = spoiled.model.gpt_neox.layers[layer].attention.dense.weight
    with torch.no_grad():
        weight[:, 64 * head : 64 * (head + 1)] = 0
        weight[:, :64] *= 0.5  # a part of another head goes with it, each time
    return spoiled.bits_per_byte(text, length=256)


# %% q5: the bits per byte themselves, not what is added to them
cost = torch.tensor(without)

# %% q5: what remains is better than the whole: the difference the wrong way round
cost = lm.bits_per_byte(page, length=256) - torch.tensor(without)

# %% q5: heads in the rows and layers in the columns
cost = (torch.tensor(without) - lm.bits_per_byte(page, length=256)).T
