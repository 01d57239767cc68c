import type { ReadMessage } from '#test/support/kafka.ts';

/** What a topic should hold: the keys, and how many versions of each. */
export type Expected = ReadonlyMap<string, number>;

/** The version of an event, from the header that consumers go by. */
export function versionOf(message: ReadMessage): number {
  return Number(message.headers['ce_sequence']);
}

/** True once every version of every key is there, repeats or not. */
export function isComplete(messages: readonly ReadMessage[], expected: Expected): boolean {
  const count = [...expected.values()].reduce((sum, versions) => sum + versions, 0);
  // Readers ask with every message: few of these times need a look at all that came before.
  if (messages.length < count) return false;
  return new Set(messages.map((message) => `${message.key} ${versionOf(message)}`)).size >= count;
}

/**
 * What is wrong with a topic, in words; nothing if, for each key, the messages with repeats removed are
 * versions 1 to n in order, in one partition.
 */
export function faultsOf(messages: readonly ReadMessage[], expected: Expected): string[] {
  const byKey = Map.groupBy(messages, ({ key }) => key ?? '');
  const unexpected = [...byKey.keys()].filter((key) => !expected.has(key));
  return [
    ...unexpected.map((key) => `${key} was never inserted`),
    ...[...expected].flatMap(([key, count]) => faultsOfKey(key, byKey.get(key) ?? [], count)),
  ];
}

/** How many messages came again. */
export function repeatsIn(messages: readonly ReadMessage[]): number {
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
