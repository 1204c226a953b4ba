// The browser's camera: opening it, choosing another, taking pictures of it.

import { $ } from "./dom.js";
import { Problem } from "./problems.js";

const LONGEST_SIDE_PX = 640; // what goes over the wire; engines see less as a rule
const JPEG_QUALITY = 0.85;

const REFUSALS = {
  NotAllowedError: "The browser did not allow it. Allow the camera for this page, then try again.",
  NotFoundError: "No camera was found on this device.",
  NotReadableError: "Another program is using it.",
  OverconstrainedError: "That camera is gone; choose another.",
};

export class CameraSource {
  /** video: the element that shows it. */
  constructor(video) {
    this.video = video;
    this.stream = null;
  }

  /** Open a camera, the one at the back if none is named. Raises Problem. */
  async open(deviceId = null) {
    if (!navigator.mediaDevices) {
      throw new Problem({ title: "The camera cannot be used", detail: "Browsers give it to pages over HTTPS and on localhost only." });
    }
    this.close();
    const wanted = deviceId ? { deviceId: { exact: deviceId } } : { facingMode: "environment" };
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({ video: { ...wanted, width: { ideal: 1280 } }, audio: false });
    } catch (error) {
      throw new Problem({ title: "The camera cannot be used", detail: REFUSALS[error.name] ?? error.message });
    }
    this.video.srcObject = this.stream;
    await this.video.play();
    const scale = Math.min(1, LONGEST_SIDE_PX / Math.max(this.video.videoWidth, this.video.videoHeight));
    this.width = Math.round(this.video.videoWidth * scale);
    this.height = Math.round(this.video.videoHeight * scale);
    await this.listCameras();
  }

  close() {
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    this.stream = null;
    this.video.srcObject = null;
  }

  async listCameras() {
    const cameras = (await navigator.mediaDevices.enumerateDevices()).filter((device) => device.kind === "videoinput");
    const current = this.stream.getVideoTracks()[0].getSettings().deviceId;
    $("camera-choice").replaceChildren(...cameras.map(({ deviceId, label }, at) =>
      new Option(label || `Camera ${at + 1}`, deviceId, false, deviceId === current)));
  }

  /** The picture of this moment, as a canvas. */
  grab() {
    return this.copy(this.video);
  }

  /** A canvas with what another one, or the video, shows now. */
  copy(shown) {
    const picture = new OffscreenCanvas(this.width, this.height);
    picture.getContext("2d").drawImage(shown, 0, 0, this.width, this.height);
    return picture;
  }
}

/** A JPEG file of a picture. */
export function encodeJpeg(picture) {
  return picture.convertToBlob({ type: "image/jpeg", quality: JPEG_QUALITY });
}
