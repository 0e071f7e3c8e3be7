// The part of noVNC that is used here; the package brings no types.
declare module '@novnc/novnc' {
  interface Options {
    shared?: boolean;
    wsProtocols?: string[];
  }

  export default class RFB extends EventTarget {
    constructor(target: HTMLElement, address: string, options?: Options);
    scaleViewport: boolean;
    background: string;
    focus(): void;
    disconnect(): void;
    sendCtrlAltDel(): void;
  }
}
