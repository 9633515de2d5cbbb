/* Shared by the widgets that compute with a model's configuration and a device: the shape behind a
   configuration, and the controls that choose and change it. */

const SHAPE = [["num_hidden_layers", "Layers"], ["hidden_size", "Width"], ["num_attention_heads", "Heads"],
  ["num_key_value_heads", "Key-value heads"], ["intermediate_size", "FFN width"], ["vocab_size", "Vocabulary"]];
const OWN = "your own";
const LARGEST = 1e7; // in a field: enough for anything built
const whole = (n) => n.toLocaleString("en");
/** Three digits, and no exponent: 0.0562, 1.5, 24, 1,230. */
const three = (x) => Number(x.toPrecision(3)).toLocaleString("en", { maximumSignificantDigits: 3 });
const same = (a, b) => JSON.stringify(Object.entries(a).sort()) === JSON.stringify(Object.entries(b).sort());
function seconds(t) {
  for (const [unit, size] of [["s", 1], ["ms", 1e-3], ["µs", 1e-6]]) if (t >= size) return `${three(t / size)} ${unit}`;
  return `${three(t / 1e-9)} ns`;
}

/** The widths of a configuration, and its linear layers in one layer: [inputs, outputs, biases] each. */
function shapeOf(config) {
  const width = config.hidden_size;
  const heads = config.num_attention_heads;
  const headDim = Math.floor(width / heads);
  const [queryWidth, kvWidth] = [heads * headDim, config.num_key_value_heads * headDim];
  const inner = config.intermediate_size;
  const neox = config.model_type === "gpt_neox";
  const [inBias, outBias] = [config.attention_bias, config.attention_bias && config.model_type !== "qwen2"];
  const linear = (inputs, outputs, bias) => [inputs, outputs, bias ? outputs : 0];
  return {
    width, queryWidth, kvWidth, norm: neox ? 2 * width : width,
    projections: neox ? [linear(width, 3 * width, inBias), linear(width, width, inBias)]
      : [linear(width, queryWidth, inBias), linear(width, kvWidth, inBias), linear(width, kvWidth, inBias), linear(queryWidth, width, outBias)],
    feedForward: neox ? [linear(width, inner, true), linear(inner, width, true)]
      : [linear(width, inner), linear(width, inner), linear(inner, width)],
  };
}

/** The rate that counts: the best one, or with 32 bits that of float32; null where none is known. */
function rateOf({ device, bits }) {
  const rates = Object.entries(device.peak).filter(([dtype]) => bits < 32 || dtype === "float32").map(([, rate]) => rate);
  return rates.length ? Math.max(...rates) : null;
}

/** A list of what is known by name, and OWN for what a field has changed. */
function known({ label, list, of = (one) => one, now, onchange }) {
  // The last, so that a model you add goes by your name for it, even if its shape is known.
  const name = () => list.findLast((one) => same(of(one), now()))?.name;
  const control = select({ label, value: null, options: [...list.map((one) => [one.name, one.name]), [OWN, OWN]], onchange: (v) => {
    const one = list.find((each) => each.name === v);
    if (one) onchange(of(one)); else refresh();
  } });
  const refresh = () => control.set(name() ?? OWN);
  return { el: control.el, name, refresh };
}

/** A number to type. What isn't one between its limits is said to be wrong and changes nothing. */
function numberField(label, { integer, limits, read, write }) {
  const id = uid();
  let typing = false; // until the change is done, no update may take back what was typed
  const input = h("input", { id, type: "number", inputmode: integer ? "numeric" : "decimal", step: integer ? 1 : "any", oninput: () => { typing = true; }, onchange: () => {
    typing = false;
    const [value, [low, high]] = [Number(input.value), limits()];
    const good = input.value !== "" && value >= low && value <= high && (!integer || Number.isInteger(value));
    input.setAttribute("aria-invalid", !good);
    wrong.textContent = good ? "" : `${integer ? "whole, " : ""}from ${whole(low)} to ${whole(high)}`;
    if (good) write(value);
  } });
  const wrong = h("span", { class: "fx-wrong", role: "alert" });
  const refresh = () => {
    if (typing) return;
    const value = read();
    [input.min, input.max] = limits();
    input.setAttribute("aria-invalid", "false");
    input.placeholder = value === null ? "not published" : "";
    wrong.textContent = "";
    if (input.value === "" || Number(input.value) !== value) input.value = value ?? "";
  };
  return { el: h("div", { class: "fx-field" }, h("label", { for: id }, label), input, wrong), input, refresh };
}

/** A field for each number of the model's shape. Every GPT-NeoX head has keys and values of its own. */
function shapeFields(model, put) {
  const neox = () => model.get("config").model_type === "gpt_neox";
  return SHAPE.map(([name, label]) => {
    const field = numberField(label, {
      integer: true,
      limits: () => {
        const { hidden_size: width, num_attention_heads: heads, num_key_value_heads: shared } = model.get("config");
        return { hidden_size: [heads, LARGEST], num_attention_heads: [neox() ? 1 : shared, width], num_key_value_heads: [1, heads] }[name] ?? [1, LARGEST];
      },
      read: () => model.get("config")[name],
      write: (value) => {
        const config = { ...model.get("config"), [name]: value };
        if (neox()) config.num_key_value_heads = config.num_attention_heads;
        put("config", config);
      },
    });
    return { ...field, refresh: () => {
      field.refresh();
      field.input.disabled = name === "num_key_value_heads" && neox();
    } };
  });
}
