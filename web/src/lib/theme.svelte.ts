// Light or dark: the system's choice until the user makes his own.
type Choice = 'system' | 'light' | 'dark';

const KEY = 'gantry-theme';

class Theme {
  choice = $state<Choice>('system');
  #systemDark = $state(false);

  constructor() {
    const system = matchMedia('(prefers-color-scheme: dark)');
    this.#systemDark = system.matches;
    system.addEventListener('change', ({ matches }) => (this.#systemDark = matches));
    const kept = localStorage.getItem(KEY);
    if (kept === 'light' || kept === 'dark') this.choose(kept);
  }

  /** What is shown, whoever chose it. */
  get dark(): boolean {
    return this.choice === 'system' ? this.#systemDark : this.choice === 'dark';
  }

  choose(choice: Choice) {
    this.choice = choice;
    const root = document.documentElement;
    if (choice === 'system') {
      delete root.dataset['theme'];
      localStorage.removeItem(KEY);
    } else {
      root.dataset['theme'] = choice;
      localStorage.setItem(KEY, choice);
    }
  }

  next() {
    this.choose(this.choice === 'system' ? 'light' : this.choice === 'light' ? 'dark' : 'system');
  }
}

export const theme = new Theme();
