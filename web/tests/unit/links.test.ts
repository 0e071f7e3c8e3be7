import { describe, expect, it } from 'vitest';
import { pageOf } from '../../src/lib/links';
import { find } from '../../src/shell/pages';

describe('pageOf', () => {
  it('leads to a pool and to a volume in their own lists, on a page that is there', () => {
    expect(pageOf({ kind: 'pool', name: 'fast' })).toBe('/storage?q=fast');
    expect(pageOf({ kind: 'volume', name: 'data' })).toBe('/storage?tab=volumes&q=data');
    expect(find('/storage')?.page.menu?.text).toBe('Storage');
  });
});
