import { parseArgs } from 'node:util';
import { createProviderSimulator } from './provider-simulator.ts';

const { values } = parseArgs({
  options: {
    host: { type: 'string', default: '127.0.0.1' },
    port: { type: 'string', default: '4010' },
    ledger: { type: 'string', default: '.data/provider-simulator/ledger.jsonl' },
  },
});
const simulator = createProviderSimulator({ ledgerFile: values.ledger });

/** A second signal ends the process at once. */
const stop = () => {
  process.removeAllListeners();
  if (process.connected) process.disconnect();
  void simulator.close();
};
process.once('SIGTERM', stop).once('SIGINT', stop).once('disconnect', stop);

const url = await simulator.listen(Number(values.port), values.host);
console.log(`Provider simulator at ${url}, ledger ${values.ledger}`);
process.send?.({ url });
