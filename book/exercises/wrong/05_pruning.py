# ruff: noqa: F811
# Wrong answers to exercise 05. `python -m tools.exercises check 05` runs each of them in the place
# of the solution: it must lose points in its question.

# %% q1: the largest of each column
def kept_mass(weights, k):
    return weights.topk(min(k, len(weights)), dim=0).values.sum(0)


# %% q1: the first k, as if the weights were sorted
def kept_mass(weights, k):
    return weights[:, :k].sum(1)


# %% q1: fails where a row has fewer weights
def kept_mass(weights, k):
    return weights.topk(k, dim=1).values.sum(1)


# %% q1: the mean of the largest, not their sum
def kept_mass(weights, k):
    return weights.topk(min(k, weights.shape[1]), dim=1).values.mean(1)


# %% q2: drops, and forgets to scale the rest
def prune(weights, threshold):
    return weights.where(weights >= threshold, 0)


# %% q2: a row with nothing left is 0 divided by 0
def prune(weights, threshold):
    kept = weights.where(weights >= threshold, 0)
    return kept / kept.sum(1, keepdim=True)


# %% q2: a second softmax, which flattens the weights that are left
def prune(weights, threshold):
    limit = weights.amax(1, keepdim=True).clamp(max=threshold)
    return weights.masked_fill(weights < limit, -torch.inf).softmax(1)


# %% q2: the largest weight of the table, not of the row, is what may stay
def prune(weights, threshold):
    kept = weights.where(weights >= weights.max().clamp(max=threshold), 0)
    return kept / kept.sum(1, keepdim=True).clamp(min=1e-9)


# %% q3: compares the dropped mass with the error, as if all values lay within a range of 1
def keys_needed(row, low, high, error):
    mass = row.sort(descending=True).values.cumsum(0)
    return int((1 - mass <= error + 1e-6).int().argmax()) + 1


# %% q3: multiplies by the largest value instead of by the range
def keys_needed(row, low, high, error):
    mass = row.sort(descending=True).values.cumsum(0)
    return int(((1 - mass) * max(abs(low), abs(high)) <= error + 1e-6).int().argmax()) + 1


# %% q3: one key too few: the index, counted from 0
def keys_needed(row, low, high, error):
    mass = row.sort(descending=True).values.cumsum(0)
    return max(1, int(((1 - mass) * (high - low) <= error + 1e-6).int().argmax()))


# %% q3: takes the keys in the order in which they stand
def keys_needed(row, low, high, error):
    return int(((1 - row.cumsum(0)) * (high - low) <= error + 1e-6).int().argmax()) + 1


# %% q4: the smallest weight, without a look at the values
def least_missed(weights, values):
    return int(weights.argmin())


# %% q4: the smallest contribution to the sum, though a value near the output is what is not missed
def least_missed(weights, values):
    return int((weights * values).abs().argmin())


# %% q4: leaves the key out, and does not scale the others
def least_missed(weights, values):
    output = (weights * values).sum()
    return int((output - weights * values - output).abs().argmin())


# %% q4: an example in which the smallest weight is the least missed
counterexample = (torch.tensor([0.6, 0.3, 0.1]), torch.tensor([1.0, 2.0, 3.0]))

# %% q4: weights that do not sum to one
counterexample = (torch.tensor([3.0, 2.0, 1.0]), torch.tensor([0.0, 0.0, 10.0]))


# %% q5: one key too few: those that stay below the share
def keys_for(text, share):
    maps = lm.attention_maps(text)[:, :, 50:]
    mass = maps.sort(dim=-1, descending=True).values.cumsum(-1)
    return (mass < share).sum(-1).float().mean(-1)


# %% q5: counts the keys in the order of the text, not the largest first
def keys_for(text, share):
    mass = lm.attention_maps(text)[:, :, 50:].cumsum(-1)
    return ((mass < share).sum(-1) + 1).float().mean(-1)


# %% q5: the first tokens, which see few keys, make the mean smaller
def keys_for(text, share):
    mass = lm.attention_maps(text).sort(dim=-1, descending=True).values.cumsum(-1)
    return ((mass < share).sum(-1) + 1).float().mean(-1)


# %% q5: the share of the pruned model's bits
def extra_bits(k, text):
    dense = lm.bits_per_byte(text, length=512)
    with patched(lm.model, attention=topk(k)):
        return 1 - dense / lm.bits_per_byte(text, length=512)


# %% q5: the bits themselves
def extra_bits(k, text):
    dense = lm.bits_per_byte(text, length=512)
    with patched(lm.model, attention=topk(k)):
        return lm.bits_per_byte(text, length=512) - dense


# %% q5: as many as 60 % of the mass takes on average: too careful by far
fewest = 8

# %% q5: the mass of the dense model's largest weights, one key short
mass = maps.topk(fewest - 1, dim=-1).values.sum(-1).mean().item()
