import { kafkaClients } from '#src/outbox/publishers.ts';
import { createTestRelay, loadTestPublisher } from './outbox-fixture.ts';

/** A relay in its own process, to be killed or frozen. It sends its epoch over IPC before every batch. */
const [name, url = '', topic = '', ...brokers] = process.argv.slice(2);
const client = kafkaClients.find((known) => known === name);
if (client === undefined) throw new Error(`there is no library ${name}`);
const { testPublisher } = await loadTestPublisher(client);
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
