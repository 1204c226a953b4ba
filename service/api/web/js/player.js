// Shows one frame of the video: by the browser's own decoder where it can, by pictures from the server where it cannot.

const READY_TIMEOUT_MS = 8000;
const USUAL_FPS = 25;
const ASK_AGAIN_MS = 1000;

export class Player {
  /** video, still: the elements. moved(frameIndex): a frame is on screen. changed(): began or ceased to play. */
  constructor(video, still, moved, changed) {
    this.video = video;
    this.still = still;
    this.moved = moved;
    this.changed = changed;
    this.frameIndex = 0;
    this.fps = USUAL_FPS;
    this.ptsOf = () => null;
    this.stillUrl = null;
    this.useStills = false;
    this.wanted = null;
    this.failed = null; // the frame whose picture did not come
    video.addEventListener("seeked", () => this.settled());
    video.addEventListener("ended", () => this.pause());
    still.addEventListener("load", () => this.settled());
    still.addEventListener("error", () => this.stillFailed());
  }

  /**
   * Open a video; resolves to its size, or null where neither browser nor server can show it.
   * fps: measured if left out. stillUrl(frame): where to find pictures if the browser cannot decode it.
   */
  async open(source, { fps = null, stillUrl = null } = {}) {
    this.close();
    this.stillUrl = stillUrl;
    this.frameIndex = 0;
    this.wanted = null;
    this.video.src = source;
    this.useStills = !(await isReady(this.video));
    this.fps = fps ?? (this.useStills ? USUAL_FPS : await measureFps(this.video));
    this.video.hidden = this.useStills;
    this.still.hidden = !this.useStills;
    if (!this.useStills) return { width: this.video.videoWidth, height: this.video.videoHeight };
    return stillUrl ? this.firstStill() : null;
  }

  /** Frames that have no pictures: they can be stepped through all the same. */
  openNothing() {
    this.close();
    this.useStills = true;
    this.stillUrl = null;
    this.video.hidden = true;
    this.still.hidden = true;
  }

  async firstStill() {
    this.still.src = this.stillUrl(0);
    try {
      await this.still.decode();
    } catch {
      this.still.hidden = true;
      this.stillUrl = null;
      return null;
    }
    return { width: this.still.naturalWidth, height: this.still.naturalHeight };
  }

  close() {
    this.pause();
    const { src } = this.video;
    if (!src) return;
    this.video.removeAttribute("src");
    this.video.load();
    if (src.startsWith("blob:")) URL.revokeObjectURL(src);
  }

  /** Whether there is anything to see behind the masks. */
  get hasPictures() {
    return !this.useStills || this.stillUrl !== null;
  }

  get duration() {
    return this.video.duration || 0;
  }

  get playing() {
    return Boolean(this.playTimer) || !this.video.paused;
  }

  timeOf(frameIndex) {
    return this.ptsOf(frameIndex) ?? frameIndex / this.fps;
  }

  /** The frame at a time: near the constant rate's, corrected by what the masks say of their times. */
  frameAt(time) {
    let index = Math.max(0, Math.round(time * this.fps));
    while (this.ptsOf(index) > time + 0.001 && index > 0) index--;
    while ((this.ptsOf(index + 1) ?? Infinity) <= time + 0.001) index++;
    return index;
  }

  /** Show a frame. While one is on its way, only the newest wish is kept. */
  show(frameIndex) {
    const busy = this.wanted !== null;
    this.wanted = frameIndex;
    if (!busy) this.load(frameIndex);
  }

  load(frameIndex) {
    this.loading = frameIndex;
    if (this.useStills && !this.stillUrl) queueMicrotask(() => this.settled());
    else if (this.useStills) this.still.src = this.stillUrl(frameIndex);
    // Half a frame into it: the start of a frame may fall to its neighbour by rounding.
    else this.video.currentTime = Math.min(this.timeOf(frameIndex) + 0.5 / this.fps, Math.max(0, this.duration - 0.001));
  }

  /** A server with much to do refuses pictures for a moment: ask once more, then go on without this one. */
  stillFailed() {
    if (this.wanted === null || this.failed === this.loading) {
      this.settled();
      return;
    }
    this.failed = this.loading;
    setTimeout(() => this.wanted !== null && this.load(this.wanted), ASK_AGAIN_MS);
  }

  settled() {
    if (this.wanted === null) return;
    const next = this.wanted === this.loading ? null : this.wanted;
    this.wanted = null;
    this.frameIndex = this.loading;
    this.moved(this.frameIndex);
    if (next !== null) this.show(next);
  }

  /** Play until lastFrame() is reached; from the start again if it was reached already. */
  play(lastFrame) {
    if (this.frameIndex >= lastFrame()) this.show(0);
    if (this.useStills) this.playStills(lastFrame);
    else this.playVideo(lastFrame);
    this.changed();
  }

  playStills(lastFrame) {
    this.playTimer = setInterval(() => {
      if (this.frameIndex >= lastFrame()) this.pause();
      else this.show(this.frameIndex + 1);
    }, 1000 / this.fps);
  }

  playVideo(lastFrame) {
    const tick = (_, { mediaTime }) => {
      if (this.video.paused) return;
      const index = this.frameAt(mediaTime);
      this.frameIndex = Math.min(index, lastFrame());
      this.moved(this.frameIndex);
      if (index >= lastFrame()) this.pause();
      else this.video.requestVideoFrameCallback(tick);
    };
    this.video.requestVideoFrameCallback(tick);
    this.video.play().catch(() => this.pause());
  }

  pause() {
    clearInterval(this.playTimer);
    this.playTimer = null;
    this.video.pause();
    this.changed();
  }
}

/** Whether the browser can decode it. */
function isReady(video) {
  return new Promise((resolve) => {
    const timer = setTimeout(() => resolve(false), READY_TIMEOUT_MS);
    const answer = (able) => {
      clearTimeout(timer);
      resolve(able);
    };
    video.onloadeddata = () => answer(video.videoWidth > 0);
    video.onerror = () => answer(false);
  });
}

/** Frames per second, from the distance of the first frames that the browser presents. */
async function measureFps(video) {
  const times = [];
  await new Promise((resolve) => {
    const timer = setTimeout(resolve, 700);
    const tick = (_, { mediaTime }) => {
      times.push(mediaTime);
      if (times.length > 12) {
        clearTimeout(timer);
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
  return gaps.length ? 1 / Math.min(...gaps) : USUAL_FPS;
}
