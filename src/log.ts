import { constants, fstatSync, openSync, writevSync } from 'node:fs';
import { isatty } from 'node:tty';
import { pino } from 'pino';
import type { Logger } from 'pino';
import { prettyFactory } from 'pino-pretty';
import type { Config } from './config.ts';
import { printableStyledLines } from './printable.ts';

const STDOUT = 1;
/** Bytes that may wait for a slow reader. Above that, lines are lost. */
const WAITING_BYTES_MAX = 1_048_576;
const RETRY_MS = 50;
/** How long a process that ends waits for the reader. */
const FLUSH_MS_MAX = 500;
/** The level of warnings in pino. */
const WARN = 40;

/** The log of the process: JSON lines on standard output, or lines for people on a terminal. */
export type ServiceLog = Readonly<{ log: Logger; sink: LogSink }>;

export function createLog(level: Config['LOG_LEVEL']): ServiceLog {
  const sink = createLogSink(isatty(STDOUT) ? createLogPrinter() : undefined);
  const options = { level, base: null, serializers: { err: describeError } };
  return { log: pino(options, sink), sink };
}

/** Formats a line for people. Nothing that callers sent can control the terminal. */
export function createLogPrinter(): (line: string) => string {
  const pretty = prettyFactory({ translateTime: 'HH:MM:ss.l' });
  return (line) => printableStyledLines(pretty(line));
}

/** Omits the other members of an error of Postgres, such as `detail`: they may quote what a caller sent. */
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

/**
 * The destination of the log. It never blocks and never throws. A line that cannot be written is
 * lost and counted.
 */
export type LogSink = Readonly<{
  write(line: string): void;
  /** Lines lost since the start. */
  lost(): number;
  /** Resolves when all accepted lines are written, after half a second at the latest. */
  flushed(): Promise<void>;
}>;

/** Accepts a line, to write it now or soon, or rejects it. */
type Output = Readonly<{ take(line: string): boolean; waitingBytes(): number }>;

/**
 * Writes to standard output. If the disk is full, if nobody reads the pipe, if its reader has left
 * or if the terminal is stopped, lines are lost and nothing else happens. As soon as lines are
 * accepted again, a line says how many were lost. `render` formats every line.
 *
 * With `pino.destination` a process with a full pipe or a full disk did not end at `process.exit`.
 */
function createLogSink(render = (line: string) => line): LogSink {
  let lost = 0;
  let said = 0;
  const lose = () => {
    lost += 1;
  };
  const output = openOutput(lose);

  const write = (line: string) => {
    if (lost > said) {
      const lines = lost - said;
      const notice = { level: WARN, time: Date.now(), lines, msg: 'log lines were lost' };
      if (!output.take(render(`${JSON.stringify(notice)}\n`))) return lose();
      said += lines;
    }
    if (!output.take(render(line))) lose();
  };

  return {
    write,
    lost: () => lost,
    flushed: async () => {
      await new Promise(setImmediate);
      const endsAt = performance.now() + FLUSH_MS_MAX;
      while (output.waitingBytes() > 0 && performance.now() < endsAt) {
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      }
    },
  };
}

function openOutput(lose: () => void): Output {
  const kind = fstatSync(STDOUT);
  if (kind.isFIFO() || kind.isSocket()) return toStream(process.stdout, lose);
  return toDescriptor(isatty(STDOUT) ? openTerminal() : STDOUT, lose);
}

/**
 * Node writes to a pipe or socket what fits in at once, and keeps the rest in memory. It gets all lines of one
 * turn of the event loop in one call.
 */
function toStream(stream: NodeJS.WriteStream, lose: () => void): Output {
  let isClosed = false;
  let isCorked = false;
  const uncork = () => {
    isCorked = false;
    stream.uncork();
  };
  stream.on('error', () => {
    isClosed = true;
  });
  return {
    take: (line) => {
      if (isClosed || stream.writableLength + line.length > WAITING_BYTES_MAX) return false;
      if (!isCorked) {
        isCorked = true;
        stream.cork();
        setImmediate(uncork);
      }
      stream.write(line, (error) => {
        if (error) lose();
      });
      return true;
    },
    waitingBytes: () => (isClosed ? 0 : stream.writableLength),
  };
}

/** Opens the terminal again, without blocking: other processes that write to it still block. */
function openTerminal(): number {
  try {
    const { O_WRONLY, O_NONBLOCK, O_NOCTTY } = constants;
    return openSync(`/dev/fd/${STDOUT}`, O_WRONLY | O_NONBLOCK | O_NOCTTY);
  } catch {
    return STDOUT;
  }
}

/**
 * Writes all lines of one turn of the event loop in one call. After a failure each line is tried by itself until
 * one is accepted, so that it is known which lines are lost. If only a part of a line fits in, the rest is kept
 * and written first later. Otherwise the next line would be appended to the part.
 */
function toDescriptor(fd: number, lose: () => void): Output {
  let waiting: Buffer[] = [];
  let waitingBytes = 0;
  let isBegun = false;
  let hasFailed = false;
  let planned: NodeJS.Immediate | NodeJS.Timeout | undefined;

  /** Writes what waits. Returns false if a write failed, but true if there is no room now. */
  const flush = (): boolean => {
    while (waiting.length > 0) {
      const written = writeNow(fd, waiting);
      hasFailed = written === 'failed';
      if (written === 'failed') return false;
      if (written === 'later') {
        planned ??= setTimeout(flushOrLose, RETRY_MS).unref();
        return true;
      }
      remove(written);
    }
    return true;
  };

  const remove = (bytes: number) => {
    waitingBytes -= bytes;
    isBegun = false;
    for (let left = bytes; left > 0;) {
      const [first = Buffer.alloc(0)] = waiting;
      isBegun = left < first.length;
      if (isBegun) waiting[0] = first.subarray(left);
      else waiting.shift();
      left -= first.length;
    }
  };

  const flushOrLose = () => {
    planned = undefined;
    if (flush()) return;
    const begun = isBegun ? waiting.slice(0, 1) : [];
    for (const _ of waiting.slice(begun.length)) lose();
    waiting = begun;
    waitingBytes = begun[0]?.length ?? 0;
  };

  return {
    take: (line) => {
      if (hasFailed && planned === undefined && !flush()) return false; // the rest of a line
      const bytes = Buffer.from(line);
      if (waitingBytes + bytes.length > WAITING_BYTES_MAX) return false;
      waiting.push(bytes);
      waitingBytes += bytes.length;
      if (!hasFailed) planned ??= setImmediate(flushOrLose);
      if (planned !== undefined || flush() || isBegun) return true;
      waiting.pop();
      waitingBytes -= bytes.length;
      return false;
    },
    waitingBytes: () => (planned === undefined ? 0 : waitingBytes),
  };
}

/** Returns how many bytes were written, or `later` if there is no room now. */
function writeNow(fd: number, lines: readonly Buffer[]): number | 'later' | 'failed' {
  try {
    return writevSync(fd, lines);
  } catch (error) {
    const isFull = error instanceof Error && 'code' in error && error.code === 'EAGAIN';
    return isFull ? 'later' : 'failed';
  }
}
