"""The page's own small widgets, built on `gr.HTML`: the drawing pad and the examples to click."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

from app.examples import Example

PAD_SIZE = 336  # pixels a side: three times the digit model's input
PEN = 26  # pixels: about as thick, for a digit that fills the pad, as the handwriting that the model knows

PAD_HTML = f"""
<div class="dvt-pad">
  <canvas width="{PAD_SIZE}" height="{PAD_SIZE}" role="img"
    aria-label="Drawing pad: draw a digit with the mouse or a finger"></canvas>
  <button type="button" class="dvt-button">Clear</button>
</div>
"""

# The drawing leaves as a PNG when the pen is lifted, and as an empty string when it is cleared.
PAD_JS = f"""
const canvas = element.querySelector("canvas");
const pen = canvas.getContext("2d");
let last = null;
const clear = () => {{ pen.fillStyle = "#fff"; pen.fillRect(0, 0, canvas.width, canvas.height); }};
const at = (event) => {{
  const box = canvas.getBoundingClientRect();
  const scale = canvas.width / box.width;
  return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
}};
const line = (from, to) => {{
  pen.strokeStyle = "#000"; pen.lineWidth = {PEN}; pen.lineCap = pen.lineJoin = "round";
  pen.beginPath(); pen.moveTo(...from); pen.lineTo(...to); pen.stroke();
}};
const send = (value) => {{ props.value = value; trigger("input"); }};
clear();
canvas.addEventListener("pointerdown", (event) => {{
  event.preventDefault(); canvas.setPointerCapture(event.pointerId); last = at(event); line(last, last);
}});
canvas.addEventListener("pointermove", (event) => {{
  if (!last) return;
  const next = at(event); line(last, next); last = next;
}});
const lift = () => {{ if (last) {{ last = null; send(canvas.toDataURL("image/png")); }} }};
canvas.addEventListener("pointerup", lift);
canvas.addEventListener("pointercancel", lift);
element.querySelector("button").addEventListener("click", () => {{ clear(); send(""); }});
"""

EXAMPLES_JS = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-index]");
  if (button) trigger("click", { index: Number(button.dataset.index) });
});
"""


def examples_html(examples: Sequence[Example]) -> str:
    """The examples as buttons with a picture: difficulty and truth below it."""
    buttons = "".join(
        f'<button type="button" data-index="{index}" '
        f'aria-label="{example.difficulty} example, a {html.escape(example.label)}">'
        f'<img alt="" src="data:image/png;base64,{base64.b64encode(example.png).decode()}">'
        f"<span>{example.difficulty}<small>{html.escape(example.label)}</small></span></button>"
        for index, example in enumerate(examples)
    )
    return f'<div class="dvt-examples" role="group" aria-label="Examples">{buttons}</div>'
