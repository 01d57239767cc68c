import { runKeyCommand } from '#src/auth/key-commands.ts';
import { SCOPES } from '#src/auth/principal.ts';
import { createOwnerPool } from '#src/database/database.ts';

/** What a key is made with. All scopes if unset, or all that a customer can have. */
export type KeyOptions = Readonly<{
  scopes?: readonly string[];
  customer?: string;
  expires?: string;
}>;

/** Runs `npm run keys` on a database; returns what it prints. */
export async function runKeys(databaseUrl: string, ...args: readonly string[]): Promise<string> {
  const pool = createOwnerPool(databaseUrl);
  try {
    let printed = '';
    const code = await runKeyCommand(args, pool, (text) => (printed += text));
    if (code !== 0) throw new Error(`keys ${args.join(' ')}: ${printed}`);
    return printed;
  } finally {
    await pool.end();
  }
}

/** Makes an API key; returns its text. */
export async function createKey(databaseUrl: string, options: KeyOptions = {}): Promise<string> {
  const { customer, expires } = options;
  const scopes = options.scopes ?? (customer ? ['orders:read', 'orders:write'] : SCOPES);
  const printed = await runKeys(
    databaseUrl,
    'create',
    '--name=test',
    `--scopes=${scopes.join(',')}`,
    ...(customer === undefined ? [] : ['--customer', customer]),
    ...(expires === undefined ? [] : ['--expires', expires]),
  );
  return printed.split('\n')[0]!;
}

/** The public part of a key. */
export function keyIdOf(key: string): string {
  return key.slice(4, 16);
}

/** The headers of a caller with this token. */
export function bearer(token: string): Readonly<{ authorization: string }> {
  return { authorization: `Bearer ${token}` };
}
