import type { ChannelSpec, MessageSpec } from './asyncapi.ts';
import type { ProblemKind } from './problem.ts';

/** The page that shows the OpenAPI document. */
export function documentationPage(): string {
  return page(
    'Order service API',
    '<link rel="stylesheet" href="/docs/swagger-ui.css">',
    '<div id="api"></div>' +
      '<script src="/docs/swagger-ui-bundle.js"></script>' +
      '<script src="/docs/start.js"></script>',
  );
}

/** What the page runs: a script of its own, since none may stand in the page. */
export function startScript(): string {
  return `SwaggerUIBundle({
  url: '/openapi.json',
  dom_id: '#api',
  deepLinking: true,
  validatorUrl: null,
});
`;
}

/** The page that explains every problem code; `type` of a problem points into it. */
export function problemsPage(kinds: readonly ProblemKind[]): string {
  const entries = kinds.map(
    ({ code, status, title, advice }) =>
      `<dt id="${escape(code)}"><code>${escape(code)}</code>: ${status} ${escape(title)}</dt>` +
      `<dd>${escape(advice)}</dd>`,
  );
  return page('Problems', '', `<h1>Problems</h1><dl>${entries.join('\n')}</dl>`);
}

/** The page that shows what the service publishes, from the same declaration as /asyncapi.json. */
export function eventsPage({ title, description, topic, messages }: ChannelSpec): string {
  const entries = messages.map(
    ({ name, summary, example }) =>
      `<h2 id="${escape(name)}"><code>${escape(name)}</code></h2><p>${escape(summary)}</p>` +
      `<pre>${escape(exampleText(example))}</pre>`,
  );
  return page(
    title,
    '',
    `<h1>${escape(title)}</h1><p>Topic <code>${escape(topic)}</code>. ${escape(description)}</p>` +
      `<p>Schemas: <a href="/asyncapi.json">AsyncAPI</a></p>${entries.join('\n')}`,
  );
}

/** Headers line by line, then the value. */
function exampleText({ headers, payload }: MessageSpec['example']): string {
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}`);
  return [...lines, '', JSON.stringify(payload, undefined, 2)].join('\n');
}

function page(title: string, head: string, body: string): string {
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">' +
    `<meta name="viewport" content="width=device-width"><title>${escape(title)}</title>` +
    `<link rel="icon" href="data:,">${head}</head><body>${body}</body></html>\n`
  );
}

function escape(text: string): string {
  return text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;');
}
