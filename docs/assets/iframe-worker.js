// Pages that were opened as files may not start workers, and the search runs in one: then it runs in a hidden frame.
// The theme asks for the name IFrameWorker.
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.srcdoc = `<script>
        var postMessage = (data) => parent.dispatchEvent(new CustomEvent("from-frame", { detail: { frame: window, data } }));
        var importScripts = (...urls) => urls.reduce((before, src) => before.then(() => new Promise((done) => {
          document.body.append(Object.assign(document.createElement("script"), { src, onload: done }));
        })), Promise.resolve());
      <\/script><script src="${new URL(url, location.href)}"><\/script>`;
      frame.onload = () => {
        this.ready = true;
        this.waiting.splice(0).forEach((data) => this.postMessage(data));
      };
      window.addEventListener("from-frame", ({ detail }) => {
        if (detail.frame === frame.contentWindow) {
          const event = new MessageEvent("message", { data: detail.data });
          this.dispatchEvent(event);
          this.onmessage?.(event);
        }
      });
      this.frame = frame;
      document.body.append(frame);
    }

    postMessage(data) {
      if (this.ready) this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data }));
      else this.waiting.push(data);
    }

    terminate() {
      this.frame.remove();
    }
  };
  window.Worker = window.IFrameWorker;
}
