import { createTestRelay, testPublisher } from './outbox-fixture.ts';

/** A relay in a process of its own, to be killed or frozen. Before every batch it tells its epoch over IPC. */
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
