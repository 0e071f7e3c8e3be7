// Short notes on what was asked for and what came of it. A note of a failure stays until it is closed.
import { asRefusal } from '../api/refusal';
import type { Problem } from '../api/types';

export interface Note {
  id: number;
  text: string;
  problem?: Problem;
  /** The operation that carries it out. */
  operation?: string;
  /** The same on the command line. */
  cli?: string;
}

const SHOWN_MS = 6_000;

class Notes {
  #last = 0;
  list = $state.raw<readonly Note[]>([]);

  tell(text: string, more: Omit<Note, 'id' | 'text'> = {}) {
    const note = { id: ++this.#last, text, ...more };
    this.list = [...this.list.slice(-3), note];
    if (!note.problem) setTimeout(() => this.close(note.id), SHOWN_MS);
  }

  fail(text: string, thrown: unknown) {
    this.tell(text, { problem: asRefusal(thrown).problem });
  }

  close(id: number) {
    this.list = this.list.filter((note) => note.id !== id);
  }
}

export const notes = new Notes();
