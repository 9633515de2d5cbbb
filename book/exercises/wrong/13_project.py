# ruff: noqa: F811
# Wrong answers to exercise 13. `python -m tools.exercises check 13` runs each of them in the place
# of the solution: it must lose points in its question.


# %% q1: multiplies by the temperature
def chances(z, T):
    return (z * T).softmax(0)


# %% q1: divides by zero at temperature 0
def chances(z, T):
    return (z / T).softmax(0)


# %% q1: divides the probabilities, which then don't sum to one
def chances(z, T):
    return z.softmax(0) / T if T else z.softmax(0)


# %% q1: divides by the square root
def chances(z, T):
    if T == 0:
        return torch.nn.functional.one_hot(z.argmax(), len(z)).float()
    return (z / T**0.5).softmax(0)


# %% q2: takes the guess behind the first token
@torch.no_grad()
def continued(text, n):
    ids = lm.tokenizer.encode(text)
    start = len(ids)
    for _ in range(n):
        ids.append(lm.model(torch.tensor([ids])).logits[0, 0].argmax().item())
    return lm.tokenizer.decode(ids[start:])


# %% q2: returns the beginning as well
@torch.no_grad()
def continued(text, n):
    ids = lm.tokenizer.encode(text)
    for _ in range(n):
        ids.append(lm.model(torch.tensor([ids])).logits[0, -1].argmax().item())
    return lm.tokenizer.decode(ids)


# %% q2: does not append what it found, and finds it again
@torch.no_grad()
def continued(text, n):
    ids = torch.tensor([lm.tokenizer.encode(text)])
    return lm.tokenizer.decode([lm.model(ids).logits[0, -1].argmax().item() for _ in range(n)])


# %% q2: one pass: decodes the guesses behind all tokens, like the article's program
@torch.no_grad()
def continued(text, n):
    logits = lm.model(torch.tensor([lm.tokenizer.encode(text)])).logits
    return lm.tokenizer.decode(logits[0].argmax(-1)[-n:])


# %% q3: fills up on the right and takes the last column
@torch.no_grad()
def last_logits(texts):
    batch = [lm.tokenizer.encode(text) for text in texts]
    longest = max(map(len, batch))
    rows = torch.tensor([ids + [0] * (longest - len(ids)) for ids in batch])
    mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in batch])
    return lm.model(rows, attention_mask=mask).logits[:, -1]


# %% q3: no mask: the padding is read as text
@torch.no_grad()
def last_logits(texts):
    batch = [lm.tokenizer.encode(text) for text in texts]
    longest = max(map(len, batch))
    rows = torch.tensor([[0] * (longest - len(ids)) + ids for ids in batch])
    return lm.model(rows).logits[:, -1]


# %% q3: cuts all texts to the shortest
@torch.no_grad()
def last_logits(texts):
    batch = [lm.tokenizer.encode(text) for text in texts]
    shortest = min(map(len, batch))
    return lm.model(torch.tensor([ids[:shortest] for ids in batch])).logits[:, -1]


# %% q4: counts the weights of the linear layers alone
def megabytes(bits):
    layers = [m for m in lm.model.gpt_neox.layers.modules() if isinstance(m, torch.nn.Linear)]
    return sum(m.weight.numel() for m in layers) * bits / 8 / 1e6


# %% q4: all parameters in so many bits, embeddings and scales forgotten
def megabytes(bits):
    return sum(p.numel() for p in lm.model.parameters()) * bits / 8 / 1e6


# %% q4: the difference in bits
def extra_bits(bits, b, text):
    whole = lm.bits_per_byte(text, length=1024)
    linear = {} if bits == 32 else {"linear": methods[bits]}
    with patched(lm.model, attention=dense() if b is None else block(b), **linear):
        return lm.bits_per_byte(text, length=1024) - whole


# %% q4: forgets the blocks when there are few bits
def extra_bits(bits, b, text):
    whole = lm.bits_per_byte(text, length=1024)
    if bits == 32:
        with patched(lm.model, attention=dense() if b is None else block(b)):
            return lm.bits_per_byte(text, length=1024) / whole - 1
    with patched(lm.model, linear=methods[bits]):
        return lm.bits_per_byte(text, length=1024) / whole - 1


# %% q4: the smallest of everything, whatever it costs
choice = (4, 16)

# %% q4: the smallest block first, then the fewest bits
choice = min(cheap, key=lambda each: (-each[0], each[1] or 1024))

# %% q4: subtracts one of the two only
interaction = cost[4, 128] - cost[4, None]
