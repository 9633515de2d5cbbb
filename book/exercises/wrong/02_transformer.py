# ruff: noqa: F811
# Wrong answers to exercise 02. `python -m tools.exercises check 02` runs each of them in the place
# of the solution: it must lose points in its question.

# %% q1: divides by d - 1, as torch.std does
def layer_norm(x, eps=1e-5):
    return (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True) + eps).sqrt()


# %% q1: normalises columns, as batch norm does
def layer_norm(x, eps=1e-5):
    return (x - x.mean(0)) / (x.var(0, correction=0) + eps).sqrt()


# %% q1: without eps, a row of equal numbers is 0 divided by 0
def layer_norm(x, eps=1e-5):
    centred = x - x.mean(1, keepdim=True)
    return centred / centred.square().mean(1, keepdim=True).sqrt()


# %% q1: adds eps to the root, not below it
def layer_norm(x, eps=1e-5):
    centred = x - x.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True).sqrt() + eps)


# %% q2: forgets the last layer norm
def guess(stream):
    return (stream @ net.embed_in.weight.detach().T).softmax(-1)


# %% q2: returns logits
def guess(stream):
    return (net.final_layer_norm(stream) @ net.embed_in.weight.T).detach()


# %% q2: the softmax along the tokens
def guess(stream):
    return (net.final_layer_norm(stream) @ net.embed_in.weight.T).softmax(0).detach()


# %% q3: the model's own layer: the feed-forward network reads what attention read
@torch.no_grad()
def sequential_layer(x, index):
    layer = net.layers[index]
    qkv = layer.attention.query_key_value(layer.input_layernorm(x)).view(-1, 4, 192).transpose(0, 1)
    q, k, v = qkv.chunk(3, dim=-1)
    q, k = rotary(q, rotary_dim=16), rotary(k, rotary_dim=16)
    mixed = attention(q[None], k[None], v[None])[0]
    heads = layer.attention.dense(mixed.transpose(0, 1).flatten(1))
    neurons = F.gelu(layer.mlp.dense_h_to_4h(layer.post_attention_layernorm(x)))
    return x + heads + layer.mlp.dense_4h_to_h(neurons)


# %% q3: loses the stream: returns the feed-forward network's output alone
@torch.no_grad()
def sequential_layer(x, index):
    layer = net.layers[index]
    qkv = layer.attention.query_key_value(layer.input_layernorm(x)).view(-1, 4, 192).transpose(0, 1)
    q, k, v = qkv.chunk(3, dim=-1)
    q, k = rotary(q, rotary_dim=16), rotary(k, rotary_dim=16)
    mixed = attention(q[None], k[None], v[None])[0]
    x = x + layer.attention.dense(mixed.transpose(0, 1).flatten(1))
    return layer.mlp.dense_4h_to_h(
        F.gelu(layer.mlp.dense_h_to_4h(layer.post_attention_layernorm(x)))
    )


# %% q3: turns all 64 numbers of a head, not a quarter of them
@torch.no_grad()
def sequential_layer(x, index):
    layer = net.layers[index]
    qkv = layer.attention.query_key_value(layer.input_layernorm(x)).view(-1, 4, 192).transpose(0, 1)
    q, k, v = qkv.chunk(3, dim=-1)
    mixed = attention(rotary(q)[None], rotary(k)[None], v[None])[0]
    x = x + layer.attention.dense(mixed.transpose(0, 1).flatten(1))
    neurons = F.gelu(layer.mlp.dense_h_to_4h(layer.post_attention_layernorm(x)))
    return x + layer.mlp.dense_4h_to_h(neurons)


# %% q3: without the causal mask
@torch.no_grad()
def sequential_layer(x, index):
    layer = net.layers[index]
    qkv = layer.attention.query_key_value(layer.input_layernorm(x)).view(-1, 4, 192).transpose(0, 1)
    q, k, v = qkv.chunk(3, dim=-1)
    q, k = rotary(q, rotary_dim=16), rotary(k, rotary_dim=16)
    mixed = attention(q[None], k[None], v[None], causal=False)[0]
    x = x + layer.attention.dense(mixed.transpose(0, 1).flatten(1))
    neurons = F.gelu(layer.mlp.dense_h_to_4h(layer.post_attention_layernorm(x)))
    return x + layer.mlp.dense_4h_to_h(neurons)


# %% q4: changes the last word
first = passage["prompt"]
second = first[: first.rstrip().rindex(" ")] + " house"

# %% q4: changes a word that nobody asks for
first = passage["prompt"]
second = min(
    (
        first.replace(f" {word}", f" {other}", 1)
        for word in ("the", "of", "and", "to", "a", "in", "my", "is")
        for other in ("one", "thy", "for", "it", "his", "as")
        if f" {word} " in first
    ),
    key=lambda text: (len(differences(first, text)) != 1) + (likeliest(text) != likeliest(first)),
)

# %% q4: exchanges the value everywhere, in several tokens
first = passage["prompt"]
second = passage["prompt"].replace("e", "a")


# %% q5: the first stage at which the final guess appears, though it may go again
def settles(text):
    best = walk(lm, text).lens().argmax(-1)
    return (best == best[-1]).int().argmax(0)


# %% q5: counts the stages that agree with the end
def settles(text):
    best = walk(lm, text).lens().argmax(-1)
    return (best == best[-1]).sum(0)


# %% q5: compares with the token that comes next, not with the one just read
def echo(text):
    steps = walk(lm, text)
    ids = torch.tensor(steps.ids)
    return (steps.lens().argmax(-1)[:, :-1] == ids[1:]).float().mean(1)


# %% q5: one number for all stages
def echo(text):
    steps = walk(lm, text)
    return (steps.lens().argmax(-1) == torch.tensor(steps.ids)).float().mean()


# %% q5: exchanges the two means
sure, unsure = stage[chance < 0.3].mean().item(), stage[chance > 0.8].mean().item()

# %% q5: the mean over all tokens, twice
sure = unsure = stage.mean().item()
