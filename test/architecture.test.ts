import { globSync, readFileSync } from 'node:fs';
import { posix } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';

/**
 * Who may import whom, as folders of src. The mechanisms never import what the service is about: they
 * take it as a function, or as a row of a table. A folder that is not listed may not exist. A file that is listed
 * counts as a folder.
 */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  'orders/domain': [],
  orders: [
    'auth/principal.ts',
    'orders/domain',
    'projections',
    'outbox',
    'operators',
    'http',
    'event-store',
    'database',
  ],
  fulfilment: [
    'auth/principal.ts',
    'orders',
    'orders/domain',
    'fulfilment/providers',
    'sagas',
    'http',
    'event-store',
    'database',
    'workers',
  ],
  'fulfilment/providers': ['sagas'],
  sagas: ['orders', 'orders/domain', 'event-store', 'workers', 'database'],
  projections: ['event-store', 'workers', 'database'],
  outbox: ['operators', 'network', 'event-store', 'workers', 'database'],
  auth: ['auth/principal.ts', 'operators', 'http', 'workers', 'database'],
  'auth/principal.ts': [],
  http: ['auth/principal.ts', 'network', 'workers'],
  operators: [],
  'event-store': ['database'],
  network: [],
  workers: [],
  database: [],
};
/** Files directly in src put the parts together, so they may import all of them. */
const TOP = '';

const IMPORT =
  /(?:^|[\s;])(?:import|export)\s(?:[^'";]*?\sfrom\s)?['"]([^'"]+)['"]|import\(\s*['"]([^'"]+)['"]/g;

type Source = Readonly<{ path: string; text: string }>;

/** Every import that the rules forbid, as "file imports what". */
function forbiddenImports(sources: readonly Source[]): string[] {
  return sources.flatMap(({ path, text }) => {
    const from = folderOf(path);
    return [...text.matchAll(IMPORT)]
      .map((match) => match[1] ?? match[2] ?? '')
      .filter((target) => !isAllowed(from, path, target))
      .map((target) => `${path} imports ${target}`);
  });
}

function isAllowed(from: string, path: string, target: string): boolean {
  if (from === TOP) return true;
  const inSource = target.startsWith('#src/')
    ? target.slice('#src/'.length)
    : target.startsWith('.')
      ? posix.join(posix.dirname(path), target)
      : undefined;
  if (inSource === undefined) return from !== 'orders/domain' || target === 'zod';
  const to = folderOf(inSource);
  return to === from || (MAY_IMPORT[from] ?? []).includes(to);
}

/** The longest folder of the rules that holds the file. */
function folderOf(path: string): string {
  if (path in MAY_IMPORT) return path;
  const folder = posix.dirname(path);
  if (folder === '.') return TOP;
  const known = Object.keys(MAY_IMPORT)
    .filter((name) => folder === name || folder.startsWith(`${name}/`))
    .toSorted((a, b) => b.length - a.length);
  return known[0] ?? folder;
}

const sources = globSync('**/*.ts', {
  cwd: fileURLToPath(new URL('../src/', import.meta.url)),
}).map((path) => ({
  path,
  text: readFileSync(new URL(`../src/${path}`, import.meta.url), 'utf8'),
}));

describe('the source tree', () => {
  test('keeps its dependencies pointing down', () => {
    expect(sources.length).toBeGreaterThan(30);
    expect(forbiddenImports(sources)).toEqual([]);
  });

  test('has no folder without a rule', () => {
    const folders = new Set(sources.map(({ path }) => folderOf(path)));
    folders.delete(TOP);
    expect([...folders].filter((folder) => !(folder in MAY_IMPORT))).toEqual([]);
  });

  test('reads the environment in main.ts only', () => {
    const readers = sources.filter(({ text }) => text.includes('process.env'));
    expect(readers.map(({ path }) => path)).toEqual(['main.ts']);
  });
});

describe('this guard', () => {
  test.each<[string, string]>([
    ['orders/domain/order.ts', `import { v7 } from 'uuid';`],
    ['orders/domain/order.ts', `import 'node:fs';`],
    ['orders/domain/order.ts', `import type { OrdersSummaryRow } from '../orders-summary.ts';`],
    ['event-store/group-commit.ts', `import { appendToOrder } from '#src/orders/order-stream.ts';`],
    ['http/server.ts', `export { x } from '../orders/order-stream.ts';`],
    ['outbox/relay.ts', `import {\n  a,\n  b,\n} from '#src/orders/order-stream.ts';`],
    ['sagas/runner.ts', `const late = await import('#src/fulfilment/fulfilment.ts');`],
    ['workers/worker.ts', `import '#src/app.ts'`],
  ])('sees that %s must not say %s', (path, text) => {
    expect(forbiddenImports([{ path, text }])).toHaveLength(1);
  });

  test.each<[string, string]>([
    ['orders/order-stream.ts', `import { decide } from './domain/order.ts';`],
    ['event-store/x.ts', `import { Pool } from 'pg';`],
    ['app.ts', `import { x } from './orders/order-stream.ts';`],
  ])('lets %s say %s', (path, text) => {
    expect(forbiddenImports([{ path, text }])).toEqual([]);
  });
});
