import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import { EventUnreadable, createEventCodec } from '#src/event-store/event-codec.ts';

type Renamed = { type: 'Renamed'; data: { first: string; last: string } };

const schema = z.object({
  type: z.literal('Renamed'),
  data: z.object({ first: z.string(), last: z.string() }),
});

const codec = createEventCodec<Renamed>({
  Renamed: {
    schema,
    upcasts: [
      (data) => ({ full: z.object({ name: z.string() }).parse(data).name }),
      (data) => {
        const [first, last] = z.object({ full: z.string() }).parse(data).full.split(' ');
        return { first, last };
      },
    ],
    downcasts: [],
  },
});

describe('decoding a stored event', () => {
  test.each([
    [1, { name: 'Ada Lovelace' }],
    [2, { full: 'Ada Lovelace' }],
    [3, { first: 'Ada', last: 'Lovelace' }],
  ])('casts version %i to the newest', (schemaVersion, data) => {
    expect(codec.decode({ type: 'Renamed', schemaVersion, data })).toEqual({
      type: 'Renamed',
      data: { first: 'Ada', last: 'Lovelace' },
    });
  });

  test.each([
    ['an unknown type', 'Deleted', 1],
    ['a version from the future', 'Renamed', 4],
    ['no version', 'Renamed', 0],
  ])('refuses %s', (_, type, schemaVersion) => {
    expect(() => codec.decode({ type, schemaVersion, data: {} })).toThrow(EventUnreadable);
  });

  test('refuses data that does not match its schema', () => {
    expect(() =>
      codec.decode({ type: 'Renamed', schemaVersion: 3, data: { first: 'Ada' } }),
    ).toThrow(EventUnreadable);
  });
});

test('new events are stored with the newest version', () => {
  expect(codec.schemaVersion('Renamed')).toBe(3);
  expect(codec.readable).toEqual(
    [1, 2, 3].map((schemaVersion) => ({ type: 'Renamed', schemaVersion })),
  );
});

describe('decoding what the next release writes', () => {
  const before = createEventCodec<Renamed>({
    Renamed: {
      schema,
      upcasts: [(data) => ({ ...Object(data), last: '-' })],
      downcasts: [
        (data) => ({ first: Object(data).given, last: Object(data).family }),
        (data) => Object(data).name,
      ],
    },
  });

  test.each([
    [1, { first: 'Ada' }, '-'],
    [2, { first: 'Ada', last: 'Lovelace' }, 'Lovelace'],
    [3, { given: 'Ada', family: 'Lovelace' }, 'Lovelace'],
    [4, { name: { given: 'Ada', family: 'Lovelace' } }, 'Lovelace'],
  ])('casts version %i to the version that is written here', (schemaVersion, data, last) => {
    expect(before.decode({ type: 'Renamed', schemaVersion, data }).data).toEqual({
      first: 'Ada',
      last,
    });
  });

  test('reads it and still writes its own version', () => {
    expect(before.schemaVersion('Renamed')).toBe(2);
    expect(before.readable.map(({ schemaVersion }) => schemaVersion)).toEqual([1, 2, 3, 4]);
    expect(() => before.decode({ type: 'Renamed', schemaVersion: 5, data: {} })).toThrow(
      EventUnreadable,
    );
  });
});
