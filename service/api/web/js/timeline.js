// The strip under the picture: where masks are there, where the engine was unsure, what is marked.

const DONE = "#35586a";
const UNSURE = [255, 190, 60];

export class Timeline {
  constructor(canvas, scrub, output, jump) {
    this.canvas = canvas;
    this.scrub = scrub;
    this.output = output;
    this.count = 1;
    scrub.addEventListener("input", () => jump(Number(scrub.value)));
    canvas.addEventListener("click", (event) => {
      const bounds = canvas.getBoundingClientRect();
      jump(Math.floor(((event.clientX - bounds.left) / bounds.width) * this.count));
    });
  }

  setCount(count) {
    this.count = Math.max(1, count);
    this.scrub.max = this.count - 1;
  }

  setFrame(frameIndex) {
    this.scrub.value = frameIndex;
    this.output.textContent = `${frameIndex + 1} / ${this.count}`;
  }

  draw(store, marks) {
    const width = (this.canvas.width = this.canvas.clientWidth || 600);
    const context = this.canvas.getContext("2d");
    const height = this.canvas.height;
    context.clearRect(0, 0, width, height);
    const step = width / this.count;
    for (let index = 0; index < this.count; index++) {
      const doubt = store.doubt(index);
      if (doubt === null) continue;
      context.fillStyle = DONE;
      context.fillRect(index * step, 0, step + 0.5, height);
      const tall = Math.round(height * Math.min(1, doubt));
      context.fillStyle = `rgb(${UNSURE.join(" ")})`;
      context.fillRect(index * step, height - tall, step + 0.5, tall);
    }
    context.fillStyle = "#ffffff";
    for (const index of marks.markedFrames()) context.fillRect(index * step, 0, Math.max(2, step), 4);
  }
}
