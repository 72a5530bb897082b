import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { INotebookTracker, type NotebookPanel } from '@jupyterlab/notebook';
import { ITranslator } from '@jupyterlab/translation';
import { ISandboxes } from '../model/tokens';
import { Mourner } from './mourner';

/** Tells why the kernel of an open notebook died, and offers what helps. */
export const death: JupyterFrontEndPlugin<void> = {
  id: 'hyper-kernel:death',
  description: 'Tells why a sandbox died, and offers what helps.',
  autoStart: true,
  requires: [ISandboxes, INotebookTracker, ITranslator],
  activate: (_: JupyterFrontEnd, model: ISandboxes, notebooks: INotebookTracker, translator: ITranslator) => {
    const mourners = new Map<NotebookPanel, Mourner>();
    const watch = (notebook: NotebookPanel) => {
      mourners.set(notebook, new Mourner(notebook.sessionContext, model, translator));
      notebook.disposed.connect(() => mourners.delete(notebook));
    };
    notebooks.forEach(watch);
    notebooks.widgetAdded.connect((_, notebook) => watch(notebook));
    model.happened.connect((_, event) => {
      if (event.action !== 'death' || !event.death) {
        return;
      }
      for (const [notebook, mourner] of mourners) {
        if (notebook.sessionContext.session?.kernel?.id === event.kernel_id) {
          mourner.hear(event.death, event.reason);
        }
      }
    });
  }
};
