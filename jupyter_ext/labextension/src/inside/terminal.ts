import { ILayoutRestorer, type JupyterFrontEnd, type JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette, MainAreaWidget, showErrorMessage, WidgetTracker } from '@jupyterlab/apputils';
import { URLExt } from '@jupyterlab/coreutils';
import { INotebookTracker } from '@jupyterlab/notebook';
import { ServerConnection, type Terminal, TerminalManager } from '@jupyterlab/services';
import { Terminal as TerminalWidget } from '@jupyterlab/terminal';
import { ITranslator } from '@jupyterlab/translation';
import { terminalIcon } from '@jupyterlab/ui-components';
import { BY_ID, sandboxOf } from '../commands';
import { words } from '../model/api';
import { CommandIDs, DOMAIN, ISandboxes } from '../model/tokens';
import { title } from '../words';

/** A terminal whose shell runs inside a sandbox. */
export const terminal: JupyterFrontEndPlugin<void> = {
  id: 'hyper-kernel:terminal',
  description: 'Opens a terminal inside a sandbox.',
  autoStart: true,
  requires: [ISandboxes, ITranslator],
  optional: [INotebookTracker, ICommandPalette, ILayoutRestorer],
  activate: (
    app: JupyterFrontEnd,
    model: ISandboxes,
    translator: ITranslator,
    notebooks: INotebookTracker | null,
    palette: ICommandPalette | null,
    restorer: ILayoutRestorer | null
  ) => {
    const trans = translator.load(DOMAIN);
    const settings = below(app.serviceManager.serverSettings);
    const shells = new Shells(settings);
    const tracker = new WidgetTracker<MainAreaWidget<TerminalWidget>>({ namespace: 'hyper-terminal' });
    let manager: TerminalManager | null = null;

    app.commands.addCommand(CommandIDs.terminal, {
      label: trans.__('Open Terminal in Sandbox'),
      icon: terminalIcon,
      describedBy: {
        args: {
          ...BY_ID.args,
          properties: {
            ...BY_ID.args.properties,
            name: { type: 'string', description: 'A terminal that is open already' },
            label: { type: 'string', description: 'What its tab is called' }
          }
        }
      },
      isEnabled: args => 'name' in args || sandboxOf(args, model, notebooks)?.state === 'running',
      execute: async args => {
        const sandbox = sandboxOf(args, model, notebooks);
        // Made with the first terminal: it asks the server now and then.
        manager ??= new TerminalManager({ serverSettings: settings, terminalAPIClient: shells });
        try {
          let session: Terminal.ITerminalConnection;
          if (typeof args.name === 'string') {
            if (!(await shells.listRunning()).some(each => each.name === args.name)) {
              return; // it was open before the page was left, and its shell has ended since
            }
            session = manager.connectTo({ model: { name: args.name } });
          } else {
            session = await manager.startNew({ name: sandbox?.id ?? '' });
          }
          const label =
            typeof args.label === 'string'
              ? args.label
              : trans.__('Terminal in %1', sandbox ? title(sandbox) : session.name);
          const main = framed(session, label, translator);
          app.shell.add(main, 'main', { type: 'Sandbox Terminal' });
          void tracker.add(main);
          app.shell.activateById(main.id);
        } catch (error) {
          await showErrorMessage(trans.__('Cannot open a terminal in the sandbox'), words(error));
        }
      }
    });
    palette?.addItem({ command: CommandIDs.terminal, category: trans.__('Sandbox') });
    void restorer?.restore(tracker, {
      command: CommandIDs.terminal,
      args: widget => ({ name: widget.content.session.name, label: widget.content.title.label }),
      name: widget => widget.content.session.name
    });
  }
};

/** The server's settings, for what it serves below `hyper/` in the way of its own terminals. */
function below(settings: ServerConnection.ISettings): ServerConnection.ISettings {
  return {
    ...settings,
    baseUrl: URLExt.join(settings.baseUrl, 'hyper/'),
    wsUrl: URLExt.join(settings.wsUrl, 'hyper/')
  };
}

/** Terminals in sandboxes: there also where the server has none of its own. */
class Shells implements Terminal.ITerminalAPIClient {
  readonly isAvailable = true;

  constructor(readonly serverSettings: ServerConnection.ISettings) {}

  async listRunning(): Promise<Terminal.IModel[]> {
    return (await this._request('GET')).json();
  }

  async shutdown(name: string): Promise<void> {
    await this._request('DELETE', name);
  }

  /** @param options - `name` is the sandbox in which the shell runs; the server names the terminal. */
  async startNew(options: Terminal.ITerminal.IOptions = {}): Promise<Terminal.IModel> {
    return (await this._request('POST', '', { sandbox: options.name })).json();
  }

  private async _request(method: string, name = '', body?: object): Promise<Response> {
    const url = URLExt.join(this.serverSettings.baseUrl, 'api/terminals', encodeURIComponent(name));
    const init = body ? { method, body: JSON.stringify(body) } : { method };
    const response = await ServerConnection.makeRequest(url, init, this.serverSettings);
    if (!response.ok) {
      throw await ServerConnection.ResponseError.create(response);
    }
    return response;
  }
}

function framed(
  session: Terminal.ITerminalConnection,
  label: string,
  translator: ITranslator
): MainAreaWidget<TerminalWidget> {
  const content = new TerminalWidget(session, { theme: 'inherit' }, translator);
  const main = new MainAreaWidget({ content, reveal: content.ready });
  // SECURITY: a guest may ask for any title; the tab always says in which sandbox its shell runs.
  const name = () => {
    content.title.label = label;
  };
  content.title.changed.connect(name);
  name();
  content.title.icon = terminalIcon;
  content.title.closable = true;
  return main;
}
