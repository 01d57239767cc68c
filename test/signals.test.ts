import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { connect } from 'node:net';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { freePort } from '#dev/ports.ts';
import { createTestDatabase } from '#test/support/database.ts';
import { createHttpClient } from '#test/support/http-client.ts';
import { skipReason } from '#test/support/infra.ts';
import { eventually } from '#test/support/poll.ts';
import { startService } from '#test/support/service.ts';

const ROOT = fileURLToPath(new URL('../', import.meta.url));

/*
 * npm passes a signal on, and a process group gets it anyway: the service may hear it twice or more.
 */
describe.skipIf(skipReason('postgres'))('npm run service', () => {
  test.each([
    ['bash', 'the group'],
    ['bash', 'npm alone'],
    ['dash', 'the group'],
    ['dash', 'npm alone'],
  ])(
    'under %s, with SIGTERM to %s, stops once, gracefully, and leaves nothing behind',
    async (shell, to) => {
      await using database = await createTestDatabase();
      const port = await freePort();
      const npm = spawn('npm', ['run', 'service'], {
        cwd: ROOT,
        detached: true,
        env: {
          PATH: process.env['PATH'],
          npm_config_script_shell: shell,
          DATABASE_URL: database.url,
          HOST: '127.0.0.1',
          AUTH: 'off',
          PORT: String(port),
          SHUTDOWN_DELAY_MS: '500',
        },
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      const lines: string[] = [];
      createInterface(npm.stdout).on('line', (line) => lines.push(line));
      const says = (text: string) => lines.some((line) => line.includes(`"msg":"${text}"`));
      const client = createHttpClient(`http://127.0.0.1:${port}`);
      await eventually(() => says('ready'));

      process.kill(to === 'the group' ? -npm.pid! : npm.pid!, 'SIGTERM');
      await eventually(() => says('stopping'));
      expect((await client.request('GET', '/v1/orders')).status).toBe(200);
      await eventually(() => says('stopped'));
      await eventually(() => isClosed(port));
      expect(lines.filter((line) => line.includes('SIGTERM'))).toHaveLength(1);
      client.close();
    },
  );
});

describe.skipIf(skipReason('postgres'))('the service', () => {
  test('treats signals at the same moment as one, and stops at once on a later one', async () => {
    await using database = await createTestDatabase();
    await using service = await startService({
      databaseUrl: database.url,
      env: { LOG_LEVEL: 'info', SHUTDOWN_DELAY_MS: '60000' },
    });
    for (const signal of ['SIGTERM', 'SIGTERM', 'SIGINT', 'SIGTERM'] as const) {
      service.signal(signal);
    }
    await eventually(() => service.log().some((line) => line.includes('"msg":"stopping"')));
    expect((await service.api.request('GET', '/livez')).status).toBe(200);
    const ended = service.ended();
    await eventually(() => {
      service.signal('SIGTERM');
      return service.log().some((line) => line.includes('second signal'));
    });
    expect(await ended).toMatchObject({ code: 1, signal: null });
  });
});

function isClosed(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    socket.on('connect', () => {
      socket.destroy();
      resolve(false);
    });
    socket.on('error', () => resolve(true));
  });
}
