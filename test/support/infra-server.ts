import { createServer } from 'node:http';

/**
 * Lets the test files ask for a shared server by name: `GET /kafka` answers its address as text, after
 * starting it if nobody has asked before. A run that needs no server starts none.
 */
export async function serveOnDemand(
  starters: Readonly<Record<string, () => Promise<string>>>,
): Promise<Readonly<{ address: string; close(): void }>> {
  const started = new Map<string, Promise<string>>();
  const server = createServer((request, response) => {
    const name = request.url?.slice(1) ?? '';
    const address = started.get(name) ?? starters[name]?.() ?? Promise.reject(new Error(name));
    started.set(name, address);
    address.then(
      (text) => response.end(text),
      (error: unknown) => response.writeHead(500).end(`${name} did not start: ${String(error)}`),
    );
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const bound = server.address();
  if (bound === null || typeof bound === 'string') throw new Error('there is no port');
  return { address: `http://127.0.0.1:${bound.port}`, close: () => server.close() };
}
