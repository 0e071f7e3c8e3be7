// xterm.js makes <style> elements and style attributes, which our content security policy forbids (style-src 'self').
// What scripts do through the CSSOM is allowed; so its style elements become adopted style sheets, and its style
// attributes assignments to `style.cssText`. Nothing else of it is touched.
import type { Terminal } from '@xterm/xterm';

type Creator = (tag: string) => HTMLElement;

/** Opens the terminal in the element, under the strict policy. */
export function openStrictly(terminal: Terminal, element: HTMLElement) {
  const plain = document.createElement.bind(document) as Creator;
  const strict: Creator = (tag) => {
    if (tag === 'style') return styleElement(plain);
    const made = plain(tag);
    return tag === 'span' ? withStyleBySetter(made) : made;
  };
  terminal.options.documentOverride = new Proxy(document, {
    get(target, key) {
      if (key === 'createElement') return strict;
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === 'function' ? (value as (...values: unknown[]) => unknown).bind(target) : value;
    },
  });
  // One part of it (the scroll bar) takes the page's own document while it is opened.
  Object.defineProperty(document, 'createElement', { value: strict, configurable: true, writable: true });
  try {
    terminal.open(element);
  } finally {
    delete (document as { createElement?: unknown }).createElement;
  }
}

/** An element that keeps its rules in an adopted sheet, from its first text until it is removed. */
function styleElement(create: Creator): HTMLElement {
  const sheet = new CSSStyleSheet();
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
  const element = create('template');
  Object.defineProperty(element, 'textContent', {
    get: () => '',
    set: (rules: string) => sheet.replaceSync(rules),
  });
  const remove = element.remove.bind(element);
  element.remove = () => {
    document.adoptedStyleSheets = document.adoptedStyleSheets.filter((other) => other !== sheet);
    remove();
  };
  return element;
}

function withStyleBySetter(element: HTMLElement): HTMLElement {
  const set = element.setAttribute.bind(element);
  element.setAttribute = (name, value) => {
    if (name === 'style') element.style.cssText = value;
    else set(name, value);
  };
  return element;
}
