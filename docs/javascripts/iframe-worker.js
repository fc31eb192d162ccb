// Search on the site runs in a Worker, which browsers refuse to pages opened from the disk. There, a hidden frame is one.
// The name of this file keeps the theme's offline plugin from loading such a script from another host.
class FrameWorker extends EventTarget {
  constructor(url) {
    super();
    const frame = document.createElement("iframe");
    frame.hidden = true;
    this.inside = new Promise((resolve) => {
      frame.onload = () => {
        const inside = frame.contentWindow;
        inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
        const script = inside.document.createElement("script");
        script.src = url;
        script.onload = () => resolve(inside);
        inside.document.body.append(script);
      };
    });
    document.body.append(frame);
  }

  postMessage(data) {
    this.inside.then((inside) => inside.dispatchEvent(new MessageEvent("message", { data })));
  }
}

if (location.protocol === "file:") {
  window.Worker = FrameWorker;
}
