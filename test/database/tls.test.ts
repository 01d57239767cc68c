import { chmod, chown, copyFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { startPostgres } from '#dev/embedded-postgres.ts';
import type { EmbeddedPostgres } from '#dev/embedded-postgres.ts';
import { postgresUser } from '#dev/postgres-binaries.ts';
import { createDatabase } from '#src/database/database.ts';
import { explainTlsFailure, isOutage, isTemporaryOutage } from '#src/database/database-errors.ts';
import { migrate } from '#src/database/migrate.ts';
import { createAuthority } from '#test/support/certificates.ts';
import type { Authority, Certificate } from '#test/support/certificates.ts';
import { createTestDatabase, queryOnce } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { eventually } from '#test/support/poll.ts';
import { startService } from '#test/support/service.ts';
import { POSTGRES_SETTINGS, serverFolder } from '#test/support/test-servers.ts';
import { createTestFolder } from '#test/support/test-folder.ts';

/*
 * TLS to Postgres as users of libpq know it. The server accepts TLS only, and its certificate is for `localhost`, not for
 * 127.0.0.1.
 */
const RULES = `hostssl all certified 127.0.0.1/32 cert
hostssl all all 127.0.0.1/32 scram-sha-256
`;

describe.skipIf(skipReason('postgres'))('TLS to Postgres', () => {
  let folder: Awaited<ReturnType<typeof createTestFolder>>;
  let serverPath: string;
  let server: EmbeddedPostgres;
  /** As node-postgres takes it: without a check of the certificate. */
  let adminUrl: string;
  let ours: Authority;
  let unknown: Authority;

  beforeAll(async () => {
    folder = await createTestFolder('tls-');
    [ours, unknown] = await Promise.all([
      createAuthority(folder.path, 'ours'),
      createAuthority(folder.path, 'unknown'),
    ]);
    serverPath = await serverFolder(inject('infra').run, 'postgres-tls-');
    const files = {
      ssl_cert_file: 'server.pem',
      ssl_key_file: 'server.key',
      ssl_ca_file: 'ca.pem',
    };
    server = await startPostgres({
      folder: serverPath,
      database: 'postgres',
      log: () => {},
      settings: { ...POSTGRES_SETTINGS, ...files },
    });
    adminUrl = server.url;
    await askAdmin('create role certified login superuser');
    await askAdmin('alter system set ssl = on');
    await writeFile(join(serverPath, 'data', 'pg_hba.conf'), RULES);
    await present(await ours.sign('server', { hosts: 'DNS:localhost' }));
    await migrate(urlWith(`sslmode=verify-full&sslrootcert=${ours.caFile}`, 'localhost'));
  });
  afterAll(async () => {
    await server.kill();
    await folder[Symbol.asyncDispose]();
  });

  test.each([
    ['verify-full with the name of the certificate', 'localhost', 'verify-full', 'ours'],
    ['verify-ca with any name', '127.0.0.1', 'verify-ca', 'ours'],
    ['require with an authority, as verify-ca', '127.0.0.1', 'require', 'ours'],
    ['require without an authority, which checks nothing', '127.0.0.1', 'require', undefined],
  ] as const)('connects: %s', async (_, host, mode, root) => {
    const rootFile = root ? `&sslrootcert=${ours.caFile}` : '';
    expect(await isEncrypted(urlWith(`sslmode=${mode}${rootFile}`, host))).toBe(true);
  });

  test.each([
    ['an unknown authority', 'localhost', 'verify-full', 'unknown', /not signed by an authority/],
    ['an unknown authority', '127.0.0.1', 'verify-ca', 'unknown', /not signed by an authority/],
    ['an unknown authority', '127.0.0.1', 'require', 'unknown', /not signed by an authority/],
    ['public authorities', 'localhost', 'verify-full', 'system', /not signed by an authority/],
    [
      'another host name',
      '127.0.0.1',
      'verify-full',
      'ours',
      /for another host name.*127\.0\.0\.1/,
    ],
  ] as const)('is refused with the reason: %s (%s, %s)', async (_, host, mode, root, reason) => {
    const file = { ours: ours.caFile, unknown: unknown.caFile, system: 'system' }[root];
    const failure = await failureOf(urlWith(`sslmode=${mode}&sslrootcert=${file}`, host));
    expect(explainTlsFailure(failure)).toMatch(reason);
    expect([isOutage(failure), isTemporaryOutage(failure)]).toEqual([true, false]);
  });

  test('is refused by a server without TLS, and plaintext by one that wants TLS', async () => {
    await using plain = await createTestDatabase();
    const url = plain.url.replace('sslmode=disable', 'sslmode=require');
    const failure = await failureOf(url.includes('sslmode=') ? url : `${url}?sslmode=require`);
    expect(explainTlsFailure(failure)).toBe('the server offers none, and sslmode requires it');
    await expect(isEncrypted(urlWith('sslmode=disable'))).rejects.toThrow('no encryption');
  });

  test('logs in with a certificate, and not without it', async () => {
    const { certFile, keyFile } = await ours.sign('certified');
    const root = `sslmode=verify-ca&sslrootcert=${ours.caFile}`;
    const as = (query: string) =>
      Object.assign(new URL(urlWith(query)), { username: 'certified', password: '' }).href;
    expect(await isEncrypted(as(`${root}&sslcert=${certFile}&sslkey=${keyFile}`))).toBe(true);
    await expect(isEncrypted(as(root))).rejects.toThrow('requires a valid client certificate');
  });

  test('ends a start with one line that says what is wrong', async () => {
    const url = urlWith(`sslmode=verify-full&sslrootcert=${unknown.caFile}`, 'localhost');
    await expect(startService({ databaseUrl: url })).rejects.toThrow(
      /exit code 1[^]*no TLS connection to DATABASE_URL: the certificate of the server is not signed/,
    );
  });

  test('is lost while the certificate of the server has expired, and comes back', async () => {
    const databaseUrl = urlWith(`sslmode=verify-full&sslrootcert=${ours.caFile}`, 'localhost');
    await using service = await startService({ databaseUrl });
    await present(await ours.sign('server', { hosts: 'DNS:localhost', days: -1 }));
    await askAdmin(
      `select pg_terminate_backend(pid)::text from pg_stat_activity
       where application_name = 'order-service'`,
    );
    const status = async () => (await service.api.request('GET', '/readyz')).status;
    await expect.poll(status).toBe(503);
    const { text } = await service.api.request('GET', '/readyz');
    expect(text).toContain('the certificate of the server has expired');
    expect((await service.api.request('GET', '/v1/orders')).status).toBe(503);
    await present(await ours.sign('server', { hosts: 'DNS:localhost' }));
    await expect.poll(status).toBe(200);
    await service.api.placeOrder();
  });

  function urlWith(query: string, host = '127.0.0.1'): string {
    const url = new URL(server.url);
    return Object.assign(url, { hostname: host, search: `?${query}` }).href;
  }

  /** The server uses the certificate for new connections. */
  async function present({ certFile, keyFile }: Certificate): Promise<void> {
    const user = await postgresUser();
    for (const [from, to] of [
      [certFile, 'server.pem'],
      [keyFile, 'server.key'],
      [ours.caFile, 'ca.pem'],
    ] as const) {
      const path = join(serverPath, 'data', to);
      await copyFile(from, path);
      await chmod(path, 0o600);
      if (user) await chown(path, user.uid, user.gid);
    }
    const loadedAt = await askAdmin('select pg_conf_load_time()::text as value');
    await askAdmin('select pg_reload_conf()::text as value');
    adminUrl = server.url.replace('sslmode=disable', 'sslmode=no-verify');
    await eventually(async () => {
      return (await askAdmin('select pg_conf_load_time()::text as value')) !== loadedAt;
    });
  }

  async function askAdmin(sql: string): Promise<string | undefined> {
    const [row] = await queryOnce<{ value: string }>(adminUrl, sql);
    return row?.value;
  }

  /** On a session of the service. */
  async function isEncrypted(url: string): Promise<boolean | undefined> {
    const service = createDatabase(url, { writersMax: 1, poolMax: 2 }, () => {});
    try {
      const client = await service.writer.connect();
      await client.query('set role none'); // orders_app is not shown it
      const { rows } = await client.query<{ ssl: boolean }>(
        'select ssl from pg_stat_ssl where pid = pg_backend_pid()',
      );
      client.release(true);
      return rows[0]?.ssl;
    } finally {
      await service.close();
    }
  }

  function failureOf(url: string): Promise<unknown> {
    return isEncrypted(url).then(String, (error: unknown) => error);
  }
});
