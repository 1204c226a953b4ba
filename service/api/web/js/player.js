// Shows one frame of the video: by the browser's own decoder where it can, by pictures from the server where it cannot.

const READY_TIMEOUT_MS = 8000;

export class Player {
  /** video, still: the elements. moved(frameIndex): a frame is on screen. */
  constructor(video, still, moved) {
    this.video = video;
    this.still = still;
    this.moved = moved;
    this.frameIndex = 0;
    this.fps = 25;
    this.ptsOf = () => null;
    this.stillUrl = null;
    this.wanted = null;
    video.addEventListener("seeked", () => this.settled());
    video.addEventListener("ended", () => this.pause());
    still.addEventListener("load", () => this.settled());
  }

  /** Open a video; resolves to its size. stillUrl(frame): where to find pictures if the browser cannot decode it. */
  async open(source, { fps = null, stillUrl = null } = {}) {
    this.stillUrl = stillUrl;
    this.frameIndex = 0;
    this.video.src = source;
    try {
      await ready(this.video);
      this.useStills = false;
      this.fps = fps ?? (await measureFps(this.video));
    } catch (error) {
      if (!stillUrl) throw error;
      this.useStills = true;
      this.fps = fps ?? 25;
      this.still.src = stillUrl(0);
      await this.still.decode();
    }
    this.video.hidden = this.useStills;
    this.still.hidden = !this.useStills;
    return this.useStills
      ? { width: this.still.naturalWidth, height: this.still.naturalHeight }
      : { width: this.video.videoWidth, height: this.video.videoHeight };
  }

  get duration() {
    return this.video.duration || 0;
  }

  get playing() {
    return Boolean(this.playTimer) || !this.video.paused;
  }

  timeOf(frameIndex) {
    const pts = this.ptsOf(frameIndex);
    return pts ?? frameIndex / this.fps;
  }

  /** Show a frame. While one is on its way, only the newest wish is kept. */
  show(frameIndex) {
    if (this.wanted !== null) {
      this.wanted = frameIndex;
      return;
    }
    this.wanted = frameIndex;
    this.load(frameIndex);
  }

  load(frameIndex) {
    this.loading = frameIndex;
    if (this.useStills) this.still.src = this.stillUrl(frameIndex);
    // Half a frame into it: the start of a frame may fall to its neighbour by rounding.
    else this.video.currentTime = Math.min(this.timeOf(frameIndex) + 0.5 / this.fps, Math.max(0, this.duration - 0.001));
  }

  settled() {
    if (this.wanted === null) return;
    const next = this.wanted === this.loading ? null : this.wanted;
    this.wanted = null;
    this.frameIndex = this.loading;
    this.moved(this.frameIndex);
    if (next !== null) this.show(next);
  }

  play(lastFrame) {
    if (this.useStills) {
      this.playTimer = setInterval(() => {
        if (this.frameIndex >= lastFrame()) this.pause();
        else this.show(this.frameIndex + 1);
      }, 1000 / this.fps);
      return;
    }
    const tick = (_, { mediaTime }) => {
      const index = Math.round(mediaTime * this.fps);
      this.frameIndex = Math.min(index, lastFrame());
      this.moved(this.frameIndex);
      if (index >= lastFrame()) this.pause();
      else if (!this.video.paused) this.video.requestVideoFrameCallback(tick);
    };
    this.video.requestVideoFrameCallback(tick);
    this.video.play();
  }

  pause() {
    clearInterval(this.playTimer);
    this.playTimer = null;
    this.video.pause();
  }
}

function ready(video) {
  return new Promise((resolve, reject) => {
    const refuse = () => reject(new Error("This browser cannot show the video's format."));
    const timer = setTimeout(refuse, READY_TIMEOUT_MS);
    video.onloadeddata = () => {
      clearTimeout(timer);
      if (video.videoWidth) resolve();
      else refuse();
    };
    video.onerror = () => {
      clearTimeout(timer);
      refuse();
    };
  });
}

/** Frames per second, from the distance of the first frames that the browser presents. */
async function measureFps(video) {
  const times = [];
  await new Promise((resolve) => {
    const done = setTimeout(resolve, 700);
    const tick = (_, { mediaTime }) => {
      times.push(mediaTime);
      if (times.length > 12) {
        clearTimeout(done);
        resolve();
      } else {
        video.requestVideoFrameCallback(tick);
      }
    };
    video.requestVideoFrameCallback(tick);
    video.play().catch(resolve);
  });
  video.pause();
  video.currentTime = 0;
  const gaps = times.slice(1).map((time, index) => time - times[index]).filter((gap) => gap > 0.004);
  return gaps.length ? 1 / Math.min(...gaps) : 25;
}
