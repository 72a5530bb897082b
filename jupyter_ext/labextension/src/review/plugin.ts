import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette, MainAreaWidget } from '@jupyterlab/apputils';
import { IEditorLanguageRegistry } from '@jupyterlab/codemirror';
import { INotebookTracker } from '@jupyterlab/notebook';
import { ITranslator } from '@jupyterlab/translation';
import { refreshIcon, ToolbarButton } from '@jupyterlab/ui-components';
import { BY_ID, sandboxOf } from '../commands';
import { changesIcon } from '../icons';
import { CommandIDs, DOMAIN, ISandboxes } from '../model/tokens';
import { title } from '../words';
import { Review } from './review';

/** Shows what a sandbox changed in its copy of the notebook's folder, and takes over what is chosen. */
export const review: JupyterFrontEndPlugin<void> = {
  id: 'hyper-kernel:review',
  description: 'Reviews the files that a sandbox changed, and takes them over.',
  autoStart: true,
  requires: [ISandboxes, ITranslator],
  optional: [INotebookTracker, ICommandPalette, IEditorLanguageRegistry],
  activate: (
    app: JupyterFrontEnd,
    model: ISandboxes,
    translator: ITranslator,
    notebooks: INotebookTracker | null,
    palette: ICommandPalette | null,
    languages: IEditorLanguageRegistry | null
  ) => {
    const trans = translator.load(DOMAIN);
    const opened = new Map<string, MainAreaWidget<Review>>();
    app.commands.addCommand(CommandIDs.review, {
      label: trans.__('Review Changed Files of Sandbox'),
      icon: changesIcon,
      describedBy: BY_ID,
      isEnabled: args => sandboxOf(args, model, notebooks)?.files === 'copy',
      execute: async args => {
        const sandbox = sandboxOf(args, model, notebooks);
        if (!sandbox) {
          return;
        }
        let main = opened.get(sandbox.id);
        if (main) {
          void main.content.refresh();
        } else {
          main = new MainAreaWidget({ content: new Review(model.api, sandbox.id, trans, languages) });
          frame(main, trans.__('Changes of %1', title(sandbox)), trans.__('Refresh'));
          main.disposed.connect(() => opened.delete(sandbox.id));
          opened.set(sandbox.id, main);
          app.shell.add(main, 'main', { type: 'Sandbox Changes' });
        }
        app.shell.activateById(main.id);
      }
    });
    palette?.addItem({ command: CommandIDs.review, category: trans.__('Sandbox') });
  }
};

function frame(main: MainAreaWidget<Review>, label: string, refresh: string): void {
  main.title.label = label;
  main.title.icon = changesIcon;
  main.title.closable = true;
  main.toolbar.addClass('hyper-Tools');
  main.toolbar.addItem(
    'refresh',
    new ToolbarButton({ icon: refreshIcon, label: refresh, onClick: () => void main.content.refresh() })
  );
}
