# ruff: noqa: F811
# Wrong answers to exercise 12. `python -m tools.exercises check 12` runs each of them in the place
# of the solution: it must lose points in its question.

# %% q1: collapses the chunk alone, so that a digit across the border is written twice
def new_symbols(best, before):
    return [symbol for _, symbol in collapse(best)]


# %% q1: drops the blanks first, which makes one digit of two
def new_symbols(best, before):
    kept = [symbol for symbol in best if symbol != BLANK]
    return [symbol for last, symbol in zip([before, *kept], kept, strict=False) if symbol != last]


# %% q1: takes away every symbol like the one before, not only the run that goes on
def new_symbols(best, before):
    return [symbol for _, symbol in collapse(best) if symbol != before]


# %% q1: writes each symbol once only
def new_symbols(best, before):
    return list(dict.fromkeys(symbol for symbol in best if symbol not in (BLANK, before)))


# %% q1: forgets the first frame, which has none before it in the chunk
def new_symbols(best, before):
    return [best[i] for i in range(1, len(best)) if best[i] not in (BLANK, best[i - 1])]


# %% q2: looks ahead where it should look back
def look_ahead(length, back, ahead):
    place = torch.arange(length)
    later = place[:, None] - place[None, :]
    return (later >= -back) & (later <= ahead)


# %% q2: does not reach the last of the frames on either side
def look_ahead(length, back, ahead):
    place = torch.arange(length)
    later = place[None, :] - place[:, None]
    return (later > -back) & (later < ahead)


# %% q2: numbers instead of True and False
def look_ahead(length, back, ahead):
    place = torch.arange(length)
    later = place[None, :] - place[:, None]
    return ((later >= -back) & (later <= ahead)).float()


# %% q2: takes all layers for one
def last_heard(mask, layers):
    return [row.nonzero().max().item() for row in mask]


# %% q2: adds each layer's look-ahead, also where the last frame looks no further
def last_heard(mask, layers):
    once = [row.nonzero().max().item() for row in mask]
    last = len(mask) - 1
    return [min(last, i + layers * (frame - i)) for i, frame in enumerate(once)]


# %% q2: asks the last frame alone, though an earlier one may look further
def last_heard(mask, layers):
    once = [row.nonzero().max().item() for row in mask]
    last = list(range(len(mask)))
    for _ in range(layers):
        last = [once[frame] for frame in last]
    return last


# %% q2: one layer too many
def last_heard(mask, layers):
    last = list(range(len(mask)))
    for _ in range(layers + 1):
        last = [max(last[j] for j in row.nonzero().flatten().tolist()) for row in mask]
    return last


# %% q2: the frames that are seen by a frame's viewers
def last_heard(mask, layers):
    last = list(range(len(mask)))
    for _ in range(layers):
        last = [max(last[j] for j in row.nonzero().flatten().tolist()) for row in mask.T]
    return last


# %% q2: forgets that the layers add up
ahead = 15

# %% q2: a chunk's length for what its first frame waits for
ahead = 16

# %% q2: the mean frame of a chunk instead of the first
ahead = 2


# %% q3: keeps nothing by a slice from -0, and so everything
def next_chunk(query, key, value, cache, keep):
    if cache is not None:
        key = torch.cat([cache[0], key], dim=2)
        value = torch.cat([cache[1], value], dim=2)
    return full(query, key, value), (key[:, :, -keep:], value[:, :, -keep:])


# %% q3: never forgets
def next_chunk(query, key, value, cache, keep):
    if cache is not None:
        key = torch.cat([cache[0], key], dim=2)
        value = torch.cat([cache[1], value], dim=2)
    return full(query, key, value), (key, value)


# %% q3: keeps the last chunk only, however much may be seen
def next_chunk(query, key, value, cache, keep):
    own = (key[:, :, :keep], value[:, :, :keep])
    if cache is not None:
        key = torch.cat([cache[0], key], dim=2)
        value = torch.cat([cache[1], value], dim=2)
    return full(query, key, value), own


# %% q3: cuts before it attends, so that the chunk pushes its past out
def next_chunk(query, key, value, cache, keep):
    if cache is not None:
        length = max(keep, key.shape[2])
        key = torch.cat([cache[0], key], dim=2)[:, :, -length:]
        value = torch.cat([cache[1], value], dim=2)[:, :, -length:]
    start = max(0, key.shape[2] - keep)
    return full(query, key, value), (key[:, :, start:], value[:, :, start:])


# %% q3: hides what comes later in the chunk
def next_chunk(query, key, value, cache, keep):
    past = 0 if cache is None else cache[0].shape[2]
    if cache is not None:
        key = torch.cat([cache[0], key], dim=2)
        value = torch.cat([cache[1], value], dim=2)
    hidden = torch.ones(query.shape[2], key.shape[2]).tril(past).bool()
    output = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=hidden)
    start = max(0, key.shape[2] - keep)
    return output, (key[:, :, start:], value[:, :, start:])


# %% q3: keeps the first frames instead of the last
def next_chunk(query, key, value, cache, keep):
    if cache is not None:
        key = torch.cat([cache[0], key], dim=2)
        value = torch.cat([cache[1], value], dim=2)
    return full(query, key, value), (key[:, :, :keep], value[:, :, :keep])


# %% q4: scores after every action
def shares(items, history, kept):
    new, cached = (1, history - 1) if kept else (history, 0)
    flops = cost(shop(items, history), new, cached=cached, causal=True).flops
    layers = flops.attention_projections + flops.feed_forward
    parts = {"attention": flops.attention, "layers": layers, "scores": flops.unembedding}
    return {name: count / flops.total for name, count in parts.items()}


# %% q4: counts the pairs that the mask hides
def shares(items, history, kept):
    new, cached = (1, history - 1) if kept else (history, 0)
    flops = cost(shop(items, history), new, cached=cached, logits_to_keep=1).flops
    layers = flops.attention_projections + flops.feed_forward
    parts = {"attention": flops.attention, "layers": layers, "scores": flops.unembedding}
    return {name: count / flops.total for name, count in parts.items()}


# %% q4: reads all actions, kept or not
def shares(items, history, kept):
    flops = operations(items, history, False)
    layers = flops.attention_projections + flops.feed_forward
    parts = {"attention": flops.attention, "layers": layers, "scores": flops.unembedding}
    return {name: count / flops.total for name, count in parts.items()}


# %% q4: the last action twice, kept and new
def shares(items, history, kept):
    new, cached = (1, history) if kept else (history, 0)
    settings = {"cached": cached, "causal": True, "logits_to_keep": 1}
    flops = cost(shop(items, history + 1), new, **settings).flops
    layers = flops.attention_projections + flops.feed_forward
    parts = {"attention": flops.attention, "layers": layers, "scores": flops.unembedding}
    return {name: count / flops.total for name, count in parts.items()}


# %% q4: counts projections as attention
def shares(items, history, kept):
    flops = operations(items, history, kept)
    attention = flops.attention + flops.attention_projections
    parts = {"attention": attention, "layers": flops.feed_forward, "scores": flops.unembedding}
    return {name: count / flops.total for name, count in parts.items()}


# %% q4: takes the one item's scores for a part of the rest
def half(history, kept):
    flops = operations(1, history, kept)
    return flops.total // flops.unembedding


# %% q4: compares the scores with attention alone
def half(history, kept):
    flops = operations(1, history, kept)
    return flops.attention // flops.unembedding


# %% q4: half of the work for a history that is always read
def half(history, kept):
    flops = operations(1, history, False)
    return (flops.total - flops.unembedding) // flops.unembedding


# %% q5: takes symbols for digits
def error_rate(rows, chunk, back):
    attend = partial(chunk_attention, chunk=chunk, back=back) if chunk else full
    wrong = spoken = 0
    for sound, digits in rows:
        written = [symbol for _, symbol in collapse(best_symbols(model, sound, attend))]
        wrong, spoken = wrong + edit_distance(written, digits), spoken + len(digits)
    return wrong / spoken


# %% q5: compares digit by digit, so that one that is left out makes all after it wrong
def error_rate(rows, chunk, back):
    attend = partial(chunk_attention, chunk=chunk, back=back) if chunk else full
    right = spoken = 0
    for sound, digits in rows:
        written = [symbol - 1 for _, symbol in collapse(best_symbols(model, sound, attend))]
        right += sum(a == b for a, b in zip(written, digits, strict=False))
        spoken += len(digits)
    return 1 - right / spoken


# %% q5: the mean of the rows' error rates, where a short row weighs as much as a long one
def error_rate(rows, chunk, back):
    attend = partial(chunk_attention, chunk=chunk, back=back) if chunk else full
    rates = []
    for sound, digits in rows:
        written = [symbol - 1 for _, symbol in collapse(best_symbols(model, sound, attend))]
        rates.append(edit_distance(written, digits) / len(digits))
    return sum(rates) / len(rates)


# %% q5: per digit written, which is kind to a model that writes nothing
def error_rate(rows, chunk, back):
    attend = partial(chunk_attention, chunk=chunk, back=back) if chunk else full
    wrong = wrote = 0
    for sound, digits in rows:
        written = [symbol - 1 for _, symbol in collapse(best_symbols(model, sound, attend))]
        wrong, wrote = wrong + edit_distance(written, digits), wrote + len(written)
    return wrong / wrote


# %% q5: hears the whole past, whatever back says
def error_rate(rows, chunk, back):
    attend = partial(chunk_attention, chunk=chunk, back=1000) if chunk else full
    wrong = spoken = 0
    for sound, digits in rows:
        written = [symbol - 1 for _, symbol in collapse(best_symbols(model, sound, attend))]
        wrong, spoken = wrong + edit_distance(written, digits), spoken + len(digits)
    return wrong / spoken


# %% q5: believes the short recordings
fine_joined = fine_apart

# %% q5: the fewest errors instead of the shortest delay
chosen = (32, 1)

# %% q5: soonest, but looks back further than it needs
chosen = (8, 4)

# %% q5: the settings that fail
fine_joined = [setting for setting in settings if rates[setting][1] > 0.2]

# %% q5: good where the recordings are short, and no longer
fine_joined = fine_apart
chosen = (8, 16)
