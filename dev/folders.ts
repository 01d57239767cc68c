import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const data = join(root, '.data');

/** The checkout, and the folders that `npm start` keeps in it. */
export const folders = {
  root,
  data,
  postgres: join(data, 'postgres'),
  kafka: join(data, 'kafka'),
  /** May be deleted at any time. */
  cache: join(data, 'cache'),
} as const;
