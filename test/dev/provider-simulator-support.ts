/** Posts JSON as any client of the contract would, and reads the response as text and as JSON. */
export async function post(url: string, path: string, key: string | undefined, body: unknown) {
  const response = await fetch(url + path, {
    method: 'POST',
    headers: key === undefined ? {} : { 'idempotency-key': key },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  });
  return read(response);
}

export async function get(url: string, path: string) {
  return read(await fetch(url + path));
}

async function read(response: Response) {
  const text = await response.text();
  return { status: response.status, text, body: JSON.parse(text) };
}
