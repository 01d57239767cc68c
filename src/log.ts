import { isatty } from 'node:tty';
import { pino } from 'pino';
import type { Logger } from 'pino';
import { prettyFactory } from 'pino-pretty';
import type { Config } from './config.ts';
import { createLogSink } from './log-sink.ts';
import type { LogSink } from './log-sink.ts';
import { printableStyledLines } from './printable.ts';

const STDOUT = 1;

/** The log of the process: JSON lines on its standard output; on a terminal, lines for people. */
export type ServiceLog = Readonly<{ log: Logger; sink: LogSink }>;

export function createLog(level: Config['LOG_LEVEL']): ServiceLog {
  const sink = createLogSink(STDOUT, isatty(STDOUT) ? createLogPrinter() : undefined);
  const options = { level, base: null, serializers: { err: describeError } };
  return { log: pino(options, sink), sink };
}

/** A line of the log as people read it. What callers sent cannot steer the terminal. */
export function createLogPrinter(): (line: string) => string {
  const pretty = prettyFactory({ translateTime: 'HH:MM:ss.l' });
  return (line) => printableStyledLines(pretty(line));
}

/** What an error of Postgres says beside this, its `detail` above all, may quote what a caller sent. */
function describeError(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  const { name, message, stack, cause } = error;
  return {
    name,
    message,
    ...('code' in error && { code: error.code }),
    ...('constraint' in error && { constraint: error.constraint }),
    stack,
    ...(cause !== undefined && { cause: describeError(cause) }),
  };
}
