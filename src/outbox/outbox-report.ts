import type { ParkedKey, TopicStatus } from './outbox-admin.ts';

const SECONDS_PER_MINUTE = 60;
const SECONDS_PER_HOUR = 3_600;

/** The state of the outbox for an operator's terminal. */
export function describeStatus(topics: readonly TopicStatus[]): string {
  if (topics.length === 0) return 'The outbox is empty and was never relayed.';
  return topics.map(describeTopic).join('\n\n');
}

/** One paragraph a parked key, the first parked first. */
export function describeParked(keys: readonly ParkedKey[]): string {
  if (keys.length === 0) return 'Nothing is parked.';
  const paragraphs = keys.map(
    ({ topic, messageKey, outboxId, messageId, reason, parkedAt, waiting }) =>
      [
        `key ${messageKey} of topic ${topic}`,
        `  message ${messageId} (outbox id ${outboxId}) was refused: ${reason}`,
        `  parked ${parkedAt.toISOString()}; ${waiting} of its messages wait`,
      ].join('\n'),
  );
  return paragraphs.join('\n\n');
}

function describeTopic(status: TopicStatus): string {
  const { topic, waiting, oldestAgeSeconds, parked, isLed, epoch } = status;
  const oldest = oldestAgeSeconds === null ? '' : `, the oldest for ${age(oldestAgeSeconds)}`;
  return [
    `topic ${topic}`,
    `  waiting     ${waiting}${oldest}`,
    `  parked      ${parked} keys`,
    `  relay       ${isLed ? `leads, epoch ${epoch}` : 'no process of the service leads'}`,
    `  partitions  ${describePartitions(status)}`,
  ].join('\n');
}

function describePartitions({ topic, partitions, partitionsFound }: TopicStatus): string {
  if (partitions === partitionsFound) return String(partitions ?? 'not known yet');
  return (
    `${partitions}, but the topic has ${partitionsFound} now: the relay is stopped. When consumers ` +
    `have read all that is there, run accept-partitions ${topic}`
  );
}

function age(seconds: number): string {
  if (seconds < 2 * SECONDS_PER_MINUTE) return `${Math.round(seconds)} s`;
  if (seconds < 2 * SECONDS_PER_HOUR) return `${Math.round(seconds / SECONDS_PER_MINUTE)} min`;
  return `${Math.round(seconds / SECONDS_PER_HOUR)} h`;
}
