import { createTestRelay, testPublisher } from './outbox-fixture.ts';

/**
 * A relay in a process of its own, to be killed or frozen. It says `leading` over IPC when it takes the
 * lease, and `sending` before every batch.
 */
const [url = '', topic = '', ...brokers] = process.argv.slice(2);
const publisher = testPublisher(brokers);
const { relay, start } = createTestRelay({
  url,
  topic,
  publisher: {
    ...publisher,
    publish: (request) => {
      process.send?.('sending');
      return publisher.publish(request);
    },
  },
  settings: { leaseTtlMs: 1_500, sendTimeoutMs: 700, leasePollMs: 50, batchRowsMax: 50 },
});
process.on('disconnect', () => process.exit());
start();
setInterval(() => process.send?.(relay.status().mode), 20);
