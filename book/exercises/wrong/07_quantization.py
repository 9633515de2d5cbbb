# ruff: noqa: F811
# Wrong answers to exercise 07. `python -m tools.exercises check 07` runs each of them in the place
# of the solution: it must lose points in its question.

# %% q1: forgets that scales have to be stored
def bits_a_weight(rows, columns, bits, group):
    return bits


# %% q1: one scale for each row
def bits_a_weight(rows, columns, bits, group):
    return bits + 16 / columns


# %% q1: a scale of 32 bits
def bits_a_weight(rows, columns, bits, group):
    return bits + 32 / group


# %% q1: bytes instead of bits
def bits_a_weight(rows, columns, bits, group):
    return (bits + 16 / group) / 8


# %% q2: one scale for the whole matrix
def rounded(w, bits, group):
    scale = w.abs().max() / (2 ** (bits - 1) - 0.5)
    return (w / scale).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * scale


# %% q2: without clamp, which uses codes that do not exist
def rounded(w, bits, group):
    groups = w.reshape(-1, group)
    scale = groups.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 0.5)
    return ((groups / scale).round() * scale).reshape(w.shape)


# %% q2: cuts off instead of rounding
def rounded(w, bits, group):
    groups = w.reshape(-1, group)
    scale = groups.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 0.5)
    codes = (groups / scale).trunc().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return (codes * scale).reshape(w.shape)


# %% q2: groups down the columns
def rounded(w, bits, group):
    groups = w.T.reshape(-1, group)
    scale = groups.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 0.5)
    codes = (groups / scale).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return (codes * scale).reshape(w.T.shape).T


# %% q2: returns the codes, not the weights they stand for
def rounded(w, bits, group):
    groups = w.reshape(-1, group)
    scale = groups.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 0.5)
    codes = (groups / scale).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return codes.reshape(w.shape)


# %% q3: an outlier, where small groups win
row = torch.tensor([10.0, 0.1, 0.2, -0.1])

# %% q3: all equal, where the groups do not matter
row = torch.tensor([1.0, 1.0, 1.0, 1.0])

# %% q3: larger, but by less than a tenth
row = torch.tensor([1.5, 1.0, -0.62, 0.62])


# %% q4: a factor for each token instead of each channel
def smooth(X, W):
    return X / X.abs().amax(1, keepdim=True), W


# %% q4: divides the weights too
def smooth(X, W):
    largest = X.abs().amax(0)
    return X / largest, W / largest


# %% q4: leaves the weights as they are
def smooth(X, W):
    return X / X.abs().amax(0), W


# %% q4: the largest value without its sign, so a channel of negative numbers is missed
def smooth(X, W):
    largest = X.amax(0)
    return X / largest, W * largest


# %% q5: the difference in bits
def extra_bits(plan, text):
    full = lm.bits_per_byte(text, length=512)
    kept = {layer: layer.weight.data for kind in plan for layer in layers[kind]}
    for kind in plan:
        for layer in layers[kind]:
            layer.weight.data = quantize(kept[layer], bits=plan[kind], group_size=64).dequantize()
    found = lm.bits_per_byte(text, length=512) - full
    for layer, weight in kept.items():
        layer.weight.data = weight
    return found


# %% q5: whole rows share a scale
def extra_bits(plan, text):
    full = lm.bits_per_byte(text, length=512)
    kept = {layer: layer.weight.data for kind in plan for layer in layers[kind]}
    for kind in plan:
        for layer in layers[kind]:
            layer.weight.data = quantize(kept[layer], bits=plan[kind]).dequantize()
    found = lm.bits_per_byte(text, length=512) / full - 1
    for layer, weight in kept.items():
        layer.weight.data = weight
    return found


# %% q5: rounds the first layer of each kind only
def extra_bits(plan, text):
    full = lm.bits_per_byte(text, length=512)
    kept = {layers[kind][0]: layers[kind][0].weight.data for kind in plan}
    for kind, bits in plan.items():
        layer = layers[kind][0]
        layer.weight.data = quantize(kept[layer], bits=bits, group_size=64).dequantize()
    found = lm.bits_per_byte(text, length=512) / full - 1
    for layer, weight in kept.items():
        layer.weight.data = weight
    return found


# %% q5: every kind counts alike, however large
def average_bits(plan):
    return sum(plan.values()) / len(plan)


# %% q5: saves on the kind that minds most for its size
plan = dict(zip(kinds, (2, 3, 3, 3), strict=True))

# %% q5: good, but takes too many bits
plan = dict(zip(kinds, (3, 3, 3, 3), strict=True))

# %% q5: spends on the large layers without a measurement
plan = dict(zip(kinds, (2, 2, 3, 3), strict=True))
