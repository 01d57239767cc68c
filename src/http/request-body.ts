import type { Readable } from 'node:stream';

import { bodyCutShort, bodyTooLarge, overloaded } from './server-errors.ts';

export type BodyLimits = Readonly<{
  bytesMax: number;
  /** Counts bytes as held for this request; false when all requests together hold too much. */
  hold: (bytes: number) => boolean;
}>;

/**
 * Reads a body whole.
 * @throws Problem `body_too_large`, `overloaded`, or `malformed_request` if it ends early; the rest of
 * the body is still to be read then
 */
export function readBody(
  body: Readable,
  announcedBytes: number,
  { bytesMax, hold }: BodyLimits,
): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    if (announcedBytes > bytesMax) {
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
      else if (!hold(chunk.length)) refuse(overloaded('Too many large requests are under way.'));
    };
    const end = () => {
      stop();
      resolve(Buffer.concat(chunks, length));
    };
    const cut = () => refuse(bodyCutShort());
    body.on('data', take).on('end', end).on('error', cut).on('close', cut);
  });
}
