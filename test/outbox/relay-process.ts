import { createTestRelay, testPublisher } from './outbox-fixture.ts';

/** A relay in its own process, to be killed or frozen. It sends its epoch over IPC before every batch. */
const [url = '', topic = '', ...brokers] = process.argv.slice(2);
const publisher = testPublisher(brokers);
const { relay, start } = createTestRelay({
  url,
  topic,
  publisher: {
    ...publisher,
    publish: (request) => {
      process.send?.(relay.status().epoch);
      return publisher.publish(request);
    },
  },
  settings: { leaseTtlMs: 4_000, sendTimeoutMs: 2_000, leasePollMs: 50, batchRowsMax: 50 },
});
process.on('disconnect', () => process.exit());
start();
