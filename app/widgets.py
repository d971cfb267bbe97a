"""The page's own small widgets, built on `gr.HTML`: the drawing pad and the examples to click."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

from app.examples import Example

PAD_SIZE = 336  # pixels a side: three times the digit model's input
PEN = 26  # pixels: about as thick, for a digit that fills the pad, as the handwriting that the model knows

STEP = 12  # pixels that the pen moves with an arrow key

PAD_HTML = f"""
<div class="dvt-pad">
  <div class="dvt-paper">
    <canvas width="{PAD_SIZE}" height="{PAD_SIZE}" tabindex="0" role="application" aria-describedby="pad-keys"
      aria-label="Drawing pad: draw a digit with the mouse, a finger or the keyboard"></canvas>
    <i class="dvt-pen" aria-hidden="true"></i>
  </div>
  <button type="button" class="dvt-button">Clear</button>
  <p id="pad-keys" class="dvt-small">By keyboard: arrow keys move the pen, space puts it down and lifts it.</p>
  <p class="dvt-hidden" role="status"></p>
</div>
"""

# The drawing leaves as a PNG when the pen is lifted, and as an empty string when it is cleared.
PAD_JS = f"""
const canvas = element.querySelector("canvas");
const cursor = element.querySelector(".dvt-pen");
const status = element.querySelector("[role=status]");
const pen = canvas.getContext("2d");
const arrows = {{ ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }};
let last = null;
let place = [canvas.width / 2, canvas.height / 4];
let down = false;
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
const show = () => {{
  cursor.style.left = 100 * place[0] / canvas.width + "%";
  cursor.style.top = 100 * place[1] / canvas.height + "%";
  cursor.classList.toggle("dvt-down", down);
}};
const lift = () => {{ if (last) {{ last = null; send(canvas.toDataURL("image/png")); }} }};
const put = (isDown) => {{
  if (down === isDown) return;
  down = isDown;
  if (down) line(place, place); else send(canvas.toDataURL("image/png"));
  status.textContent = down ? "Pen down" : "Pen lifted";
}};
clear(); show();
canvas.addEventListener("pointerdown", (event) => {{
  if (event.button !== 0) return;
  event.preventDefault(); canvas.setPointerCapture(event.pointerId); last = at(event); line(last, last);
}});
canvas.addEventListener("pointermove", (event) => {{
  if (!last) return;
  const next = at(event); line(last, next); last = next;
}});
canvas.addEventListener("pointerup", lift);
canvas.addEventListener("pointercancel", lift);
canvas.addEventListener("keydown", (event) => {{
  if (event.key === " ") put(!down);
  else if (event.key in arrows) {{
    const next = place.map((value, i) => Math.min(Math.max(value + {STEP} * arrows[event.key][i], 0), {PAD_SIZE}));
    if (down) line(place, next);
    place = next;
  }} else return;
  event.preventDefault(); show();
}});
canvas.addEventListener("blur", () => {{ put(false); show(); }});
element.querySelector("button").addEventListener("click", () => {{ clear(); send(""); }});
"""

# A screen reader says the new answer.
LIVE_JS = """element.setAttribute("aria-live", "polite");"""

# What a slider past 1 means, for a screen reader; the listener is the page's, and set once.
SLIDER_WORDS_JS = """
const tell = (slider) => {
  if (Number(slider.value) > 1 && slider.max === "1.01") slider.setAttribute("aria-valuetext", "never early");
  else if (slider.max === "1.01") slider.removeAttribute("aria-valuetext");
};
if (!window.dvtSliderWords) {
  window.dvtSliderWords = true;
  document.addEventListener("input", (event) => { if (event.target.type === "range") tell(event.target); });
  document.addEventListener("focusin", (event) => { if (event.target.type === "range") tell(event.target); });
}
"""

# Where the page is one column, the result may be out of sight.
SHOW_RESULT_JS = """() => {
  if (window.innerWidth <= 980) document.querySelector("#result").scrollIntoView({ block: "start" });
}"""

# The image was opened from another tab, which took the focus away with it.
SHOW_FIRST_TAB_JS = """() => {
  document.querySelector('#tabs button[role="tab"]').focus({ preventScroll: true });
  if (window.innerWidth <= 980) document.querySelector("#result").scrollIntoView({ block: "start" });
  else window.scrollTo({ top: 0 });
}"""

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
        f'aria-label="{example.difficulty} example, digit {html.escape(example.label)}">'
        f'<img alt="" src="data:image/png;base64,{base64.b64encode(example.png).decode()}">'
        f"<span>{example.difficulty}<small>{html.escape(example.label)}</small></span></button>"
        for index, example in enumerate(examples)
    )
    return f'<div class="dvt-examples" role="group" aria-label="Examples">{buttons}</div>'
