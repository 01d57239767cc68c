import { isUtf8 } from 'node:buffer';
import type { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';

import type { FastifyInstance, FastifyRequest } from 'fastify';

import { pointerTo, summarise } from './field-errors.ts';
import { bodyCutShort, overloaded, Problem, problemKind } from './problem.ts';
import type { FieldError } from './problem.ts';
import { isJson } from './request-head.ts';

type BodyLimits = Readonly<{
  /** The size of one body. */
  bytesMax: number;
  /** Counts bytes as held for the request; false when all requests together hold too much. */
  hold: (request: IncomingMessage, bytes: number) => boolean;
}>;

/** The registered name of UTF-8, and a common misspelling. */
const UTF_8 = new Set(['utf-8', 'utf8']);
const CHARSET = /;\s*charset\s*=\s*"?([^\s;"]*)/i;
/** How much of an unwanted body is read, so that its sender can receive the response. */
const DISCARD_BYTES_MAX = 16 * 1024 * 1024;
const DISCARD_TIME_MS_MAX = 5_000;
const DEPTH_MAX = 20;
const FAULTS_MAX = 50;
const QUOTE = 0x22;
const BACKSLASH = 0x5c;
/** Up to 15 digits and a small exponent: a double holds it exactly. `-0` needs a closer look. */
const SURELY_EXACT = /^(?!-0)-?[\d.]{1,15}(?:[eE][+-]?\d{1,2})?$/;

/**
 * Accepts bodies as JSON in UTF-8 only; any other media type gets 415. The media type of an empty body
 * is ignored, because `curl -d ''` calls it a form.
 */
export function acceptJsonOnly(app: FastifyInstance, limits: BodyLimits): void {
  app.addHook('onRequest', ({ raw: { headers } }, _, done) => {
    if (headers['content-length'] === '0' && !isJson(headers)) delete headers['content-type'];
    done();
  });
  app.removeAllContentTypeParsers();
  app.addContentTypeParser(
    'application/json',
    async ({ headers }: FastifyRequest, body: IncomingMessage) => {
      requireUtf8(headers);
      return parseJsonBody(await readBody(body, limits));
    },
  );
}

function requireUtf8(headers: FastifyRequest['headers']): void {
  const charset = CHARSET.exec(headers['content-type'] ?? '')?.[1] ?? 'utf-8';
  const encoding = headers['content-encoding'] ?? 'identity';
  if (!UTF_8.has(charset.toLowerCase()) || encoding !== 'identity') {
    throw new Problem(problemKind('unsupported_media_type'));
  }
}

/**
 * Reads a whole body. On failure the rest of the body has not been read.
 * @throws Problem `body_too_large`, `overloaded`, or `malformed_request` if the body ends early
 */
function readBody(body: IncomingMessage, { bytesMax, hold }: BodyLimits): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    if (Number(body.headers['content-length']) > bytesMax) {
      reject(bodyTooLarge(bytesMax));
      return;
    }
    const chunks: Buffer[] = [];
    let length = 0;
    const stop = () => body.off('data', take).off('end', end).off('error', cut).off('close', cut);
    const refuse = (problem: Error) => {
      stop();
      reject(problem);
    };
    const take = (chunk: Buffer) => {
      length += chunk.length;
      chunks.push(chunk);
      if (length > bytesMax) refuse(bodyTooLarge(bytesMax));
      else if (!hold(body, chunk.length)) {
        refuse(overloaded('Too many large requests are in progress.'));
      }
    };
    const end = () => {
      stop();
      resolve(Buffer.concat(chunks, length));
    };
    const cut = () => refuse(bodyCutShort());
    body.on('data', take).on('end', end).on('error', cut).on('close', cut);
  });
}

function bodyTooLarge(bytesMax: number): Problem {
  return new Problem(problemKind('body_too_large'), {
    detail: `The body is above the limit of ${Math.floor(bytesMax / 1024)} KiB. Send a smaller one.`,
  });
}

/** Whether part of the request's body has not been read yet. */
export function isBodyComing({ complete, readableEnded, headers }: IncomingMessage): boolean {
  if (complete || readableEnded) return false;
  return headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0;
}

/** Whether the announced body is too large, so that the peer was not asked to send it. */
export function isUnasked({ headers }: IncomingMessage, bodyBytesMax: number): boolean {
  return headers.expect !== undefined && Number(headers['content-length']) > bodyBytesMax;
}

/**
 * Reads and discards the rest of a body, up to 16 MiB and 5 s. Call it before the response to a request
 * whose body is still coming: a socket that is closed with unread data is reset, and the peer would never
 * see the response.
 */
export function discardBody(request: IncomingMessage): Promise<void> {
  return new Promise((resolve) => {
    let bytesLeft = DISCARD_BYTES_MAX;
    const finish = () => {
      clearTimeout(timer);
      request.off('data', count).off('end', finish).off('close', finish);
      resolve();
    };
    const count = (chunk: Buffer) => {
      bytesLeft -= chunk.length;
      if (bytesLeft < 0) finish();
    };
    const timer = setTimeout(finish, DISCARD_TIME_MS_MAX);
    request.on('data', count).on('end', finish).on('close', finish).resume();
  });
}

/**
 * Parses a request body strictly: it refuses what two parsers could read in two ways. `JSON.parse`
 * silently keeps the last of two members with one name and rounds large numbers, so a scan of the text
 * looks for what it hides.
 * @returns undefined for an empty body
 * @throws Problem `malformed_json`, or `invalid_request` with pointers
 */
export function parseJsonBody(body: Buffer): unknown {
  if (body.length === 0) return undefined;
  if (!isUtf8(body)) throw malformed('The body is not valid UTF-8.');
  const text = body.toString('utf8');
  const value = parse(text);
  const faults = findFaults(text);
  if (faults.length > 0) throw new Problem(problemKind('invalid_request'), summarise(faults));
  return value;
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw malformed('The body is not valid JSON.');
  }
}

function malformed(detail: string): Problem {
  return new Problem(problemKind('malformed_json'), { detail });
}

/** An object or a list that is being scanned, and the member or item that the scan is at. */
type Frame = { names: Set<string> | undefined; at: string | number; expectsName: boolean };

/**
 * Scans valid JSON for duplicate or dangerous names, text that Postgres cannot store, numbers that a
 * double does not hold, and too many levels.
 */
function findFaults(text: string): FieldError[] {
  const faults: FieldError[] = [];
  const frames: Frame[] = [];
  let frame: Frame | undefined;
  const report = (message: string | undefined) => {
    if (message === undefined) return;
    const path = frames.map((outer) => outer.at);
    faults.push({ pointer: pointerTo('body', path), message });
  };
  let at = 0;
  while (at < text.length && faults.length < FAULTS_MAX) {
    const start = at;
    const code = text.charCodeAt(at);
    if (code === QUOTE) {
      at = endOfString(text, at);
      const token = text.slice(start, at);
      report(frame?.expectsName === true ? enterMember(frame, token) : textFault(token));
    } else if (startsNumber(code)) {
      at = endOfNumber(text, at);
      report(numberFault(text.slice(start, at)));
    } else {
      at += 1;
      frame = moveOn(frames, frame, code);
      if (frames.length > DEPTH_MAX) {
        return [{ pointer: '', message: `must not be nested deeper than ${DEPTH_MAX} levels` }];
      }
    }
  }
  return faults;
}

/** Follows a bracket or a comma, and ignores any other character; returns the innermost frame. */
function moveOn(frames: Frame[], frame: Frame | undefined, code: number): Frame | undefined {
  switch (code) {
    case 0x7b: // {
      frames.push({ names: new Set(), at: '', expectsName: true });
      return frames.at(-1);
    case 0x5b: // [
      frames.push({ names: undefined, at: 0, expectsName: false });
      return frames.at(-1);
    case 0x7d: // }
    case 0x5d: // ]
      frames.pop();
      return frames.at(-1);
    case 0x2c: // ,
      if (typeof frame?.at === 'number') frame.at += 1;
      else if (frame !== undefined) frame.expectsName = true;
      return frame;
    default:
      return frame;
  }
}

/**
 * Checks the name of a member. Names must be plain: V8 up to 14.6 reads some escaped ones as other
 * names (nodejs/node#63785), and no name here needs an escape.
 */
function enterMember(frame: Frame, token: string): string | undefined {
  const isPlain = !token.includes('\\');
  const name = isPlain ? token.slice(1, -1) : unquote(token);
  frame.at = name;
  frame.expectsName = false;
  if (name === '__proto__' || name === 'constructor') return 'is not a name that a body may use';
  if (frame.names?.has(name) === true) return 'is given more than once';
  frame.names?.add(name);
  return isPlain ? undefined : 'must be written without escapes';
}

/** Only an escape can bring U+0000 or an unpaired surrogate into text that came as UTF-8. */
function textFault(token: string): string | undefined {
  if (!token.includes('\\')) return undefined;
  const text = unquote(token);
  if (text.includes('\0')) return 'must not contain U+0000';
  return text.isWellFormed() ? undefined : 'must not contain an unpaired surrogate';
}

function unquote(token: string): string {
  return String(JSON.parse(token));
}

function numberFault(token: string): string | undefined {
  if (SURELY_EXACT.test(token)) return undefined;
  const value = Number(token);
  if (Object.is(value, -0)) return 'must not be -0';
  const isExact = Number.isFinite(value) && decimal(token) === decimal(String(value));
  return isExact ? undefined : 'is a number that cannot be kept exactly';
}

/** A decimal number in one form only: sign, digits without outer zeros, exponent. */
function decimal(token: string): string {
  const [mantissa = '', exponent = '0'] = token.toLowerCase().split('e');
  const [whole = '', fraction = ''] = mantissa.replace('-', '').split('.');
  const digits = whole + fraction;
  let first = 0;
  while (digits.charCodeAt(first) === 0x30) first += 1;
  let end = digits.length;
  while (end > first && digits.charCodeAt(end - 1) === 0x30) end -= 1;
  if (first === end) return '0';
  const power = Number(exponent) + whole.length - first;
  return `${mantissa.startsWith('-') ? '-' : ''}${digits.slice(first, end)}e${power}`;
}

/** @returns the index after the string that starts at `start`, in valid JSON */
function endOfString(text: string, start: number): number {
  let at = start + 1;
  let code = text.charCodeAt(at);
  while (code !== QUOTE) {
    at += code === BACKSLASH ? 2 : 1;
    code = text.charCodeAt(at);
  }
  return at + 1;
}

/** @returns the index after the number that starts at `start`, in valid JSON */
function endOfNumber(text: string, start: number): number {
  let at = start + 1;
  while (isInNumber(text.charCodeAt(at))) at += 1;
  return at;
}

/** Whether a value of JSON that starts with this character is a number. */
function startsNumber(code: number): boolean {
  return (code >= 0x30 && code <= 0x39) || code === 0x2d;
}

/** A digit, a point, a sign, e or E. */
function isInNumber(code: number): boolean {
  return startsNumber(code) || code === 0x2e || code === 0x2b || code === 0x65 || code === 0x45;
}

/**
 * Discards what still comes on a connection whose last response has been written, so that the peer can
 * receive it. Destroys the connection once the peer has closed its side or sent 16 MiB more.
 */
export function discardInput(socket: Socket): void {
  let bytesLeft = DISCARD_BYTES_MAX;
  const destroy = () => socket.destroy();
  // The HTTP parser listens too. What is discarded must not become a request.
  socket.removeAllListeners('data');
  socket.on('data', (chunk) => {
    bytesLeft -= chunk.length;
    if (bytesLeft < 0) destroy();
  });
  socket.on('end', destroy).on('error', destroy).resume();
}
