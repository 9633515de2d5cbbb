# ruff: noqa: F811
# Wrong answers to exercise 10. `python -m tools.exercises check 10` runs each of them in the place
# of the solution: it must lose points in its question.

# %% q1: leaves the part out, whatever its speedup
def needed_share(wanted, s):
    return 1 - 1 / wanted if wanted <= s else None


# %% q1: returns a share above 1 where no share is enough
def needed_share(wanted, s):
    return (1 - 1 / wanted) / (1 - 1 / s)


# %% q1: takes the speedups themselves for what is saved
def needed_share(wanted, s):
    return (wanted - 1) / (s - 1) if wanted <= s else None


# %% q1: refuses the whole that gains as much as the part
def needed_share(wanted, s):
    return (1 - 1 / wanted) / (1 - 1 / s) if wanted < s else None


# %% q2: lets the share itself grow with the length
def length_for(share, N, left):
    return N * (1 - left) / share


# %% q2: takes attention's work by the square of the length for its weight over the rest
def length_for(share, N, left):
    return N * ((1 - share) / share * (1 - left) / left) ** 0.5


# %% q2: takes what is left for the share of attention
def length_for(share, N, left):
    return N * (1 - share) / share * left / (1 - left)


# %% q2: turns the ratio of attention to the rest upside down
def length_for(share, N, left):
    return N * share / (1 - share) * (1 - left) / left


# %% q3: takes a loss that nobody measured for none
def choose(rows, budget):
    within = [row for row in rows if (row["bits"] or 0) <= budget]
    if not within:
        return None
    return min(within, key=lambda row: (row["time"], row["bits"] or 0))["label"]


# %% q3: stays below the budget
def choose(rows, budget):
    within = [row for row in rows if row["bits"] is not None and row["bits"] < budget]
    return min(within, key=lambda row: (row["time"], row["bits"]))["label"] if within else None


# %% q3: does not look at the loss where times are equal
def choose(rows, budget):
    within = [row for row in rows if row["bits"] is not None and row["bits"] <= budget]
    return min(within, key=lambda row: row["time"])["label"] if within else None


# %% q3: breaks ties by the label
def choose(rows, budget):
    within = [row for row in rows if row["bits"] is not None and row["bits"] <= budget]
    if not within:
        return None
    return min((row["time"], row["bits"], row["label"]) for row in within)[2]


# %% q3: takes a loss of zero for one that was not measured
def choose(rows, budget):
    within = [row for row in rows if row["bits"] and row["bits"] <= budget]
    return min(within, key=lambda row: (row["time"], row["bits"]))["label"] if within else None


# %% q3: takes a gain for a loss
def choose(rows, budget):
    within = [row for row in rows if row["bits"] is not None and abs(row["bits"]) <= budget]
    return min(within, key=lambda row: (row["time"], row["bits"]))["label"] if within else None


# %% q4: below the line between the others, where many weights choose it
points = {"fast": (0.2, 0.1), "middle": (0.4, 0.03), "exact": (1.0, 0.0)}

# %% q4: below the line by little, so that no weight among a few chooses it
points = {"fast": (0.2, 0.1), "middle": (0.6, 0.049), "exact": (1.0, 0.0)}

# %% q4: on the line, where one weight makes all three equal
points = {"fast": (0.25, 0.75), "middle": (0.5, 0.5), "exact": (0.75, 0.25)}

# %% q4: never chosen, since another one beats it
points = {"fast": (0.2, 0.1), "middle": (0.6, 0.11), "exact": (1.0, 0.0)}

# %% q4: equal to another one, which is on the frontier, but on the line too
points = {"fast": (0.2, 0.1), "middle": (0.2, 0.1), "exact": (1.0, 0.0)}


# %% q5: the difference in bits, not the share
def extra_bits(b, n, text):
    full = lm.bits_per_byte(text, length=1024)
    with patched(models[n].model, attention=block(b) if b else dense()):
        return models[n].bits_per_byte(text, length=1024) - full


# %% q5: patches the model that has all neurons, and measures the other one
def extra_bits(b, n, text):
    full = lm.bits_per_byte(text, length=1024)
    with patched(lm.model, attention=block(b) if b else dense()):
        return models[n].bits_per_byte(text, length=1024) / full - 1


# %% q5: compares with the smaller model, so that fewer neurons cost nothing
def extra_bits(b, n, text):
    full = models[n].bits_per_byte(text, length=1024)
    with patched(models[n].model, attention=block(b) if b else dense()):
        return models[n].bits_per_byte(text, length=1024) / full - 1


# %% q5: gives no attention, and gets blocks of 128
def extra_bits(b, n, text):
    full = lm.bits_per_byte(text, length=1024)
    with patched(models[n].model, attention=block(b) if b else None):
        return models[n].bits_per_byte(text, length=1024) / full - 1


# %% q5: adds what each method costs alone
def extra_bits(b, n, text):
    full = lm.bits_per_byte(text, length=1024)
    with patched(lm.model, attention=block(b) if b else dense()):
        narrow = lm.bits_per_byte(text, length=1024) / full - 1
    return narrow + models[n].bits_per_byte(text, length=1024) / full - 1


# %% q5: counts the operations of the model with all neurons
def operations(b, n):
    config, pattern = lm.model.config, block(b) if b else None
    some = cost(config, 2048, attention=pattern, causal=True, logits_to_keep=1).flops.total
    return some / cost(config, 2048, causal=True, logits_to_keep=1).flops.total


# %% q5: counts those that are saved
def operations(b, n):
    config, pattern = models[n].model.config, block(b) if b else None
    some = cost(config, 2048, attention=pattern, causal=True, logits_to_keep=1).flops.total
    return 1 - some / cost(lm.model.config, 2048, causal=True, logits_to_keep=1).flops.total


# %% q5: counts the logits of all tokens
def operations(b, n):
    config, pattern = models[n].model.config, block(b) if b else None
    some = cost(config, 2048, attention=pattern, causal=True).flops.total
    return some / cost(lm.model.config, 2048, causal=True).flops.total


# %% q5: believes the sum, and measures no pair
best = guess

# %% q5: believes that losses add up, and copies what was measured
guess = best

# %% q5: takes the pair that loses least
best = min(pairs, key=lambda pair: together[pair])

# %% q5: takes the pair with the fewest operations, whatever it loses
best = pairs[0]

# %% q5: takes the best of what blocks can do alone
best = next(pair for pair in pairs if pair[1] == 1024 and together[pair] <= 0.05)
