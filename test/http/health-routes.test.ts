import { describe, expect, test, vi } from 'vitest';
import { healthRoutes } from '#src/http/health-routes.ts';
import type { Health, HealthDependencies } from '#src/http/health-routes.ts';
import { createMetrics } from '#src/http/metrics.ts';
import { sampleServer } from './sample-server.ts';

const well: Health = { ready: true, details: { database: 'up', outbox: { pendingRows: 3 } } };

const serverWith = (dependencies: Partial<HealthDependencies>) =>
  sampleServer({
    routes: async (app) => {
      await app.register(healthRoutes, {
        check: async () => well,
        isDraining: () => false,
        metrics: createMetrics(),
        ...dependencies,
      });
    },
  });

describe('/livez', () => {
  test('checks nothing', async () => {
    const check = vi.fn<() => Promise<Health>>(() => Promise.reject(new Error('asked')));
    await using server = serverWith({ check, isDraining: () => true });
    const response = await server.app.inject('/livez');
    expect(response.statusCode).toBe(200);
    expect(response.json()).toStrictEqual({ status: 'ok' });
    expect(check).not.toHaveBeenCalled();
  });
});

describe('/readyz', () => {
  test('shows the result of the check', async () => {
    await using server = serverWith({});
    const response = await server.app.inject('/readyz');
    expect(response.statusCode).toBe(200);
    expect(response.json()).toStrictEqual({ status: 'ready', ...well.details });
  });

  test('is 503 if the check finds the service unready', async () => {
    const details = { database: 'away', status: 'cannot be overridden' };
    await using server = serverWith({ check: async () => ({ ready: false, details }) });
    const response = await server.app.inject('/readyz');
    expect(response.statusCode).toBe(503);
    expect(response.json()).toStrictEqual({ status: 'unready', database: 'away' });
  });

  test('is 503 while draining, whatever the check says', async () => {
    let draining = false;
    await using server = serverWith({ isDraining: () => draining });
    expect((await server.app.inject('/readyz')).statusCode).toBe(200);
    draining = true;
    const response = await server.app.inject('/readyz');
    expect(response.statusCode).toBe(503);
    expect(response.json()).toStrictEqual({ status: 'draining' });
  });

  test('is 503, without the reason, when the check fails', async () => {
    await using server = serverWith({ check: () => Promise.reject(new Error('password=x')) });
    const response = await server.app.inject('/readyz');
    expect(response.statusCode).toBe(503);
    expect(response.body).not.toContain('password');
  });

  test('is 503 when the check fails at once', async () => {
    await using server = serverWith({
      check: () => {
        throw new Error('at once');
      },
    });
    expect((await server.app.inject('/readyz')).statusCode).toBe(503);
  });

  test('is 503 when the check hangs', async () => {
    await using server = serverWith({ check: () => new Promise(() => undefined) });
    const response = await server.app.inject('/readyz');
    expect(response.statusCode).toBe(503);
    expect(response.json()).toMatchObject({ reason: expect.stringContaining('too long') });
  });

  test('checks once for many concurrent requests', async () => {
    const check = vi.fn<() => Promise<Health>>(async () => well);
    await using server = serverWith({ check });
    const responses = await Promise.all(
      Array.from({ length: 50 }, () => server.app.inject('/readyz')),
    );
    expect(new Set(responses.map(({ statusCode }) => statusCode))).toStrictEqual(new Set([200]));
    expect(check).toHaveBeenCalledTimes(1);
  });
});

describe('/metrics', () => {
  test('is read once for many concurrent requests, and for a second after', async () => {
    const metrics = createMetrics();
    const text = vi.fn<() => Promise<string>>(() => metrics.text());
    await using server = serverWith({ metrics: { contentType: metrics.contentType, text } });
    const ask = () => server.app.inject('/metrics');
    const responses = await Promise.all(Array.from({ length: 50 }, ask));
    responses.push(await ask());
    expect(new Set(responses.map(({ body }) => body)).size).toBe(1);
    expect(text).toHaveBeenCalledTimes(1);
  });

  test('is read again at once after a failure', async () => {
    const metrics = createMetrics();
    const text = vi
      .fn<() => Promise<string>>(() => metrics.text())
      .mockRejectedValueOnce(new Error('away'));
    await using server = serverWith({ metrics: { contentType: metrics.contentType, text } });
    expect((await server.app.inject('/metrics')).statusCode).toBe(500);
    expect((await server.app.inject('/metrics')).statusCode).toBe(200);
  });

  test('is the Prometheus text', async () => {
    await using server = serverWith({});
    const response = await server.app.inject('/metrics');
    expect(response.statusCode).toBe(200);
    expect(response.headers['content-type']).toContain('text/plain');
    expect(response.body).toContain('# TYPE http_server_request_duration_seconds histogram');
  });
});
