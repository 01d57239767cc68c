import { pino } from 'pino';
import { createApp } from '#src/app.ts';
import { readConfig } from '#src/config.ts';
import { fastClock, watchPoints } from './points.ts';

/*
 * A replica that ends itself as `kill -9` would, at the first passing of the point CRASH_POINT; one
 * without it lives on. Prints its address, then nothing.
 */
const { CRASH_POINT, CLOCK_SPEED = '1', ...env } = process.env;
const app = await createApp(readConfig(env), pino({ level: 'fatal' }), {
  now: fastClock(Number(CLOCK_SPEED)),
  ...watchPoints((point) => {
    if (point === CRASH_POINT) process.kill(process.pid, 'SIGKILL');
  }),
});
process.stdout.write(`${await app.start()}\n`);
