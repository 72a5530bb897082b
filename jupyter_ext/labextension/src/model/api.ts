import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';
import type { Action, Applied, Change, Comparison, Image, Policy, Sandbox, Status, Wish } from './types';

/** An answer that is not what was asked for: `message` says what failed, `hint` what to do next. */
export class HyperError extends Error {
  constructor(
    message: string,
    readonly hint: string,
    readonly kind: string,
    readonly status: number
  ) {
    super(message);
  }
}

/** Calls of the server extension's REST API. Every call may throw a {@link HyperError}. */
export class Api {
  constructor(readonly settings: ServerConnection.ISettings) {}

  status(): Promise<Status> {
    return this._get('status');
  }

  sandboxes(): Promise<Sandbox[]> {
    return this._get('sandboxes');
  }

  images(): Promise<Image[]> {
    return this._get('images');
  }

  policy(): Promise<Policy> {
    return this._get('policy');
  }

  async logs(id: string): Promise<string> {
    return (await this._get<{ text: string }>(`sandboxes/${id}/logs?tail=1000`)).text;
  }

  changes(id: string): Promise<Change[]> {
    return this._get(`sandboxes/${id}/changes`);
  }

  comparison(id: string, path: string): Promise<Comparison> {
    return this._get(`sandboxes/${id}/changes/${URLExt.encodeParts(path)}`);
  }

  /** @param paths - each with the digest that it was seen with: what is another by now is refused. */
  apply(id: string, paths: Record<string, string>, force: boolean): Promise<Applied> {
    return this._send('POST', `sandboxes/${id}/apply`, { paths, force });
  }

  act(id: string, action: Action): Promise<void> {
    return this._send('POST', `sandboxes/${id}/actions`, { action });
  }

  wish(wish: Wish): Promise<unknown> {
    return this._send('PUT', 'wishes', wish);
  }

  private _get<T>(path: string): Promise<T> {
    return this._request(path, { cache: 'no-store' });
  }

  private _send<T>(method: string, path: string, body: unknown): Promise<T> {
    return this._request(path, { method, body: JSON.stringify(body) });
  }

  private async _request<T>(path: string, init: RequestInit): Promise<T> {
    const url = URLExt.join(this.settings.baseUrl, 'hyper/api/v1') + `/${path}`;
    let response: Response;
    try {
      response = await ServerConnection.makeRequest(url, init, this.settings);
    } catch (error) {
      throw new HyperError('The Jupyter server does not answer', '', 'LostError', 0);
    }
    const text = await response.text();
    if (!response.ok) {
      throw explain(response, text);
    }
    return (text ? JSON.parse(text) : undefined) as T;
  }
}

function explain(response: Response, text: string): HyperError {
  let said: { message?: string; hint?: string; kind?: string } = {};
  try {
    said = JSON.parse(text);
  } catch {
    // A proxy in between answers with a page; its status has to do.
  }
  const message = said.message ?? `${response.status} ${response.statusText}`;
  return new HyperError(message, said.hint ?? '', said.kind ?? '', response.status);
}

/** What went wrong and what to do next, as one text for people. */
export function words(error: unknown): string {
  if (error instanceof HyperError) {
    return [error.message, error.hint].filter(Boolean).map(sentence).join(' ');
  }
  return String(error instanceof Error ? error.message : error);
}

function sentence(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? '' : '.');
}
