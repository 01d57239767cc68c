import type { ReadMessage } from '#test/support/kafka.ts';

/** What a topic should contain: for each key the number of versions. */
export type Expected = ReadonlyMap<string, number>;

/** The version of an event, from the header that consumers use. */
export function versionOf(message: ReadMessage): number {
  return Number(message.headers['ce_sequence']);
}

/** True once every version of every key is there, with or without duplicates. */
export function isComplete(messages: readonly ReadMessage[], expected: Expected): boolean {
  const count = [...expected.values()].reduce((sum, versions) => sum + versions, 0);
  // Readers call this for every message, so the cheap check comes first.
  if (messages.length < count) return false;
  return new Set(messages.map((message) => `${message.key} ${versionOf(message)}`)).size >= count;
}

/**
 * What is wrong with a topic, in words. Nothing is, if the messages of each key are in one partition and, without
 * duplicates, are versions 1 to n in order.
 */
export function faultsOf(messages: readonly ReadMessage[], expected: Expected): string[] {
  const byKey = Map.groupBy(messages, ({ key }) => key ?? '');
  const unexpected = [...byKey.keys()].filter((key) => !expected.has(key));
  return [
    ...unexpected.map((key) => `${key} was never inserted`),
    ...[...expected].flatMap(([key, count]) => faultsOfKey(key, byKey.get(key) ?? [], count)),
  ];
}

/** The number of duplicates. */
export function duplicatesIn(messages: readonly ReadMessage[]): number {
  return messages.length - new Set(messages.map((m) => `${m.key} ${versionOf(m)}`)).size;
}

function faultsOfKey(key: string, messages: readonly ReadMessage[], count: number): string[] {
  const inLogOrder = messages.toSorted((a, b) => a.partition - b.partition || a.offset - b.offset);
  const firsts = [...new Set(inLogOrder.map(versionOf))];
  const expected = Array.from({ length: count }, (_, index) => index + 1);
  const partitions = new Set(messages.map(({ partition }) => partition));
  return [
    ...(firsts.join(' ') === expected.join(' ')
      ? []
      : [`${key} has ${firsts.join(' ')} of ${count}`]),
    ...(partitions.size > 1 ? [`${key} is in ${partitions.size} partitions`] : []),
  ];
}
