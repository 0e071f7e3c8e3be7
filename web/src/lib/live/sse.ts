// Server-sent events out of a byte stream (WHATWG HTML, section 9.2.6). `fetch` is used in place of EventSource, because
// that hides the status and the problem of an answer that is no stream.

export interface SseMessage {
  event: string;
  data: string;
  id?: string;
}

/** Takes text as it comes and gives whole messages. A comment gives nothing, but shows that the server lives. */
export class SseParser {
  #rest = '';
  #event = '';
  #data: string[] = [];
  #id: string | undefined;

  push(text: string): SseMessage[] {
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop() ?? '';
    const messages: SseMessage[] = [];
    for (const line of lines) {
      if (line === '') this.#end(messages);
      else this.#field(line);
    }
    return messages;
  }

  #field(line: string) {
    const colon = line.indexOf(':');
    if (colon === 0) return;
    const name = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? '' : line.slice(colon + 1);
    if (value.startsWith(' ')) value = value.slice(1);
    if (name === 'event') this.#event = value;
    else if (name === 'data') this.#data.push(value);
    else if (name === 'id') this.#id = value;
  }

  #end(messages: SseMessage[]) {
    if (this.#data.length > 0) {
      messages.push({ event: this.#event || 'message', data: this.#data.join('\n'), id: this.#id });
    }
    this.#event = '';
    this.#data = [];
    this.#id = undefined;
  }
}
