import { describe, expect, it } from 'vitest';
import { SseParser } from '../../src/lib/live/sse';

describe('SseParser', () => {
  it('gives whole messages, however the bytes are cut', () => {
    const text = 'event: added\nid: 7\ndata: {"a":1}\n\n: comment\n\nevent: bookmark\r\ndata: x\r\ndata: y\r\n\r\n';
    for (let size = 1; size <= text.length; size += 1) {
      const parser = new SseParser();
      const messages = [];
      for (let at = 0; at < text.length; at += size) messages.push(...parser.push(text.slice(at, at + size)));
      expect(messages).toEqual([
        { event: 'added', data: '{"a":1}', id: '7' },
        { event: 'bookmark', data: 'x\ny', id: undefined },
      ]);
    }
  });

  it('keeps an unfinished message back', () => {
    const parser = new SseParser();
    expect(parser.push('data: half')).toEqual([]);
    expect(parser.push('\n')).toEqual([]);
    expect(parser.push('\n')).toEqual([{ event: 'message', data: 'half', id: undefined }]);
  });
});
